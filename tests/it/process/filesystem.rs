//! A model of a folder on a disk: what was written, and what of it would survive a power cut.
//!
//! - Bytes and lengths survive once an `fsync` or `fdatasync` of their file has ended well that began after them.
//! - Names (made, renamed, removed) survive as soon as their call has ended. That is how journalling file systems mostly
//!   behave, and it is the harder case for a program that renames a file before it has synced its bytes.
//! - Of what was not synced any part may survive: nothing, all, or a part with torn and missing sectors.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use super::trace::{Call, Moment, Trace};
use crate::house::Dice;

/// What a disk writes at once.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Bytes that are safe.
    durable: Vec<u8>,
    /// Length as the program sees it.
    length: usize,
    unsynced: VecDeque<Change>,
    /// Changes that have become safe since the node was made.
    synced: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    File(usize),
}

/// A place in an open file; duplicates of a descriptor share it.
#[derive(Clone, Copy, Debug)]
struct Open {
    node: usize,
    place: usize,
    appends: bool,
}

/// The folder below `root` at one moment of a trace.
#[derive(Debug)]
pub(crate) struct Filesystem {
    root: PathBuf,
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, Entry>,
    opens: Vec<Open>,
    descriptors: HashMap<i64, usize>,
    /// Syncs that have begun: the node and how many of its changes they cover.
    syncs: HashMap<usize, (usize, usize)>,
    last_written: Option<usize>,
}

impl Filesystem {
    /// The folder before anything was in it.
    pub(crate) fn empty(root: &Path) -> Self {
        Self {
            root: root.into(),
            nodes: Vec::new(),
            names: BTreeMap::from([(root.into(), Entry::Folder)]),
            opens: Vec::new(),
            descriptors: HashMap::new(),
            syncs: HashMap::new(),
            last_written: None,
        }
    }

    /// Goes on by one moment.
    pub(crate) fn play(&mut self, trace: &Trace, moment: Moment) {
        match moment {
            Moment::Begins(index) => self.begins(index, &trace.calls[index]),
            Moment::Ends(index) => self.ends(index, &trace.calls[index]),
        }
    }

    fn begins(&mut self, index: usize, call: &Call) {
        match call.name.as_str() {
            // The number may be given away again before the call has ended.
            "close" => {
                let descriptor = call.descriptor(0).unwrap_or(-1);
                self.descriptors.remove(&descriptor);
            }
            "fsync" | "fdatasync" => {
                if let Some(open) = self.open(call) {
                    let node = &self.nodes[open.node];
                    self.syncs
                        .insert(index, (open.node, node.synced + node.unsynced.len()));
                }
            }
            _ => {}
        }
    }

    fn ends(&mut self, index: usize, call: &Call) {
        let Some(result) = call.result.and_then(|it| usize::try_from(it).ok()) else {
            return;
        };
        match call.name.as_str() {
            "openat" => self.opened(&call.path(Some(0), 1), call, 2, result),
            "read" => self.moved(call, |place| place + result),
            "lseek" => self.moved(call, |_| result),
            "write" | "writev" => self.written(call, result, None),
            "pwrite64" => self.written(call, result, Some(3)),
            "pwritev" | "pwritev2" => self.written(call, result, Some(3)),
            "ftruncate" => self.changed(call, |_| {
                Change::Length(usize::try_from(call.number(1)).unwrap())
            }),
            "fallocate" if call.says(1, "FALLOC_FL_KEEP_SIZE") => {}
            "fallocate" => {
                let end = usize::try_from(call.number(2) + call.number(3)).unwrap();
                self.changed(call, |length| Change::Length(length.max(end)));
            }
            "fsync" | "fdatasync" => self.synced(index),
            "dup" | "dup2" | "dup3" => self.doubled(call, result),
            "fcntl"
                if call
                    .arguments
                    .get(1)
                    .is_some_and(|it| it.starts_with("F_DUPFD")) =>
            {
                self.doubled(call, result);
            }
            "mkdir" => self.folder(call.path(None, 0)),
            "mkdirat" => self.folder(call.path(Some(0), 1)),
            "rename" => self.renamed(&call.path(None, 0), &call.path(None, 1)),
            "renameat" | "renameat2" => {
                self.renamed(&call.path(Some(0), 1), &call.path(Some(2), 3));
            }
            "link" => self.linked(&call.path(None, 0), &call.path(None, 1)),
            "linkat" => self.linked(&call.path(Some(0), 1), &call.path(Some(2), 3)),
            "unlink" | "rmdir" => _ = self.names.remove(&call.path(None, 0)),
            "unlinkat" => _ = self.names.remove(&call.path(Some(0), 1)),
            "creat" | "truncate" | "copy_file_range" => self.unknown(call),
            _ => {}
        }
    }

    /// A call whose effect this model does not know, on something below the root.
    fn unknown(&self, call: &Call) {
        let root = self.root.to_str().unwrap();
        let is_ours = (0..call.arguments.len()).any(|place| {
            call.behind(place).starts_with(root)
                || String::from_utf8_lossy(&call.bytes(place)).starts_with(root)
        });
        assert!(!is_ours, "the model does not know {call:?}");
    }

    fn open(&self, call: &Call) -> Option<Open> {
        let index = self.descriptors.get(&call.descriptor(0)?)?;
        Some(self.opens[*index])
    }

    fn opened(&mut self, path: &Path, call: &Call, flags: usize, result: usize) {
        if !path.starts_with(&self.root) || self.names.get(path) == Some(&Entry::Folder) {
            return;
        }
        assert!(
            !call.says(flags, "O_TMPFILE"),
            "the model does not know files without a name"
        );
        let node = match self.names.get(path) {
            Some(Entry::File(node)) => *node,
            _ if call.says(flags, "O_CREAT") => {
                self.nodes.push(Node::default());
                self.names
                    .insert(path.into(), Entry::File(self.nodes.len() - 1));
                self.nodes.len() - 1
            }
            _ => return,
        };
        if call.says(flags, "O_TRUNC") {
            self.change(node, Change::Length(0));
        }
        let appends = call.says(flags, "O_APPEND");
        self.opens.push(Open {
            node,
            place: 0,
            appends,
        });
        self.descriptors
            .insert(i64::try_from(result).unwrap(), self.opens.len() - 1);
    }

    fn doubled(&mut self, call: &Call, result: usize) {
        if let Some(index) = call
            .descriptor(0)
            .and_then(|it| self.descriptors.get(&it).copied())
        {
            self.descriptors
                .insert(i64::try_from(result).unwrap(), index);
        } else {
            // What the number stood for is closed.
            self.descriptors.remove(&i64::try_from(result).unwrap());
        }
    }

    fn moved(&mut self, call: &Call, place: impl Fn(usize) -> usize) {
        if let Some(index) = call.descriptor(0).and_then(|it| self.descriptors.get(&it)) {
            let open = &mut self.opens[*index];
            open.place = place(open.place);
        }
    }

    fn written(&mut self, call: &Call, result: usize, at: Option<usize>) {
        let Some(open) = self.open(call) else {
            return;
        };
        let mut bytes = call.bytes(1);
        bytes.truncate(result);
        assert_eq!(bytes.len(), result, "the trace holds all bytes of a write");
        let place = match at {
            Some(place) => usize::try_from(call.number(place)).unwrap(),
            None if open.appends => self.nodes[open.node].length,
            None => open.place,
        };
        if at.is_none() {
            self.moved(call, |_| place + result);
        }
        self.change(open.node, Change::Write { at: place, bytes });
    }

    fn changed(&mut self, call: &Call, change: impl Fn(usize) -> Change) {
        if let Some(open) = self.open(call) {
            self.change(open.node, change(self.nodes[open.node].length));
        }
    }

    fn change(&mut self, node: usize, change: Change) {
        let length = &mut self.nodes[node].length;
        *length = match &change {
            Change::Write { at, bytes } => (*length).max(at + bytes.len()),
            Change::Length(length) => *length,
        };
        self.nodes[node].unsynced.push_back(change);
        self.last_written = Some(node);
    }

    fn synced(&mut self, index: usize) {
        let Some((node, covered)) = self.syncs.remove(&index) else {
            return;
        };
        let node = &mut self.nodes[node];
        while node.synced < covered {
            apply(&mut node.durable, &node.unsynced.pop_front().unwrap());
            node.synced += 1;
        }
    }

    fn folder(&mut self, path: PathBuf) {
        if path.starts_with(&self.root) {
            self.names.insert(path, Entry::Folder);
        }
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        let moved: Vec<_> = self
            .names
            .keys()
            .filter(|path| path.starts_with(from))
            .cloned()
            .collect();
        for path in moved {
            let entry = self.names.remove(&path).unwrap();
            let rest = path.strip_prefix(from).unwrap();
            let path = if rest.as_os_str().is_empty() {
                to.into()
            } else {
                to.join(rest)
            };
            self.names.insert(path, entry);
        }
    }

    fn linked(&mut self, from: &Path, to: &Path) {
        if let Some(entry) = self.names.get(from).copied() {
            self.names.insert(to.into(), entry);
        }
    }

    /// All files: what is safe of each, and what the program sees in it.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, Vec<u8>)> {
        let mut files = BTreeMap::new();
        for (path, entry) in &self.names {
            if let Entry::File(index) = entry {
                let node = &self.nodes[*index];
                let mut seen = node.durable.clone();
                for change in &node.unsynced {
                    apply(&mut seen, change);
                }
                files.insert(path.clone(), (node.durable.clone(), seen));
            }
        }
        files
    }

    /// Builds what a power cut at this moment could leave, in another folder.
    pub(crate) fn survive(&self, target: &Path, dice: &mut Dice) {
        for (path, entry) in &self.names {
            let place = target.join(path.strip_prefix(&self.root).unwrap());
            match entry {
                Entry::Folder => fs::create_dir_all(&place).unwrap(),
                Entry::File(node) => {
                    fs::create_dir_all(place.parent().unwrap()).unwrap();
                    fs::write(&place, self.left(*node, dice)).unwrap();
                }
            }
        }
    }

    /// The bytes of a file after the cut.
    fn left(&self, index: usize, dice: &mut Dice) -> Vec<u8> {
        let node = &self.nodes[index];
        let mut bytes = node.durable.clone();
        if self.last_written != Some(index) {
            // The kernel may have written the rest by itself, or not begun.
            let written = if dice.below(2) == 0 {
                0
            } else {
                node.unsynced.len()
            };
            node.unsynced
                .iter()
                .take(written)
                .for_each(|change| apply(&mut bytes, change));
            return bytes;
        }
        let whole = dice.below(node.unsynced.len() + 1);
        node.unsynced
            .iter()
            .take(whole)
            .for_each(|change| apply(&mut bytes, change));
        if let Some(Change::Write { at, bytes: torn }) = node.unsynced.get(whole) {
            let part = torn[..dice.below(torn.len() + 1)].to_vec();
            apply(
                &mut bytes,
                &Change::Write {
                    at: *at,
                    bytes: part,
                },
            );
        }
        if dice.below(2) == 0 {
            self.miss_a_sector(index, &mut bytes, dice);
        }
        bytes
    }

    /// Takes one sector back to what was safe, or to zeroes where nothing was.
    fn miss_a_sector(&self, index: usize, bytes: &mut [u8], dice: &mut Dice) {
        let node = &self.nodes[index];
        let written = node.unsynced.iter().filter_map(|change| match change {
            Change::Write { at, bytes } => Some((*at, at + bytes.len())),
            Change::Length(_) => None,
        });
        let written: Vec<_> = written
            .filter(|(at, end)| at < end && *at < bytes.len())
            .collect();
        if written.is_empty() {
            return;
        }
        let (at, end) = *dice.pick(&written);
        let sectors = at / SECTOR..=(end.min(bytes.len()) - 1) / SECTOR;
        let sector = sectors.start() + dice.below(sectors.end() - sectors.start() + 1);
        let from = sector * SECTOR;
        for place in from..(from + SECTOR).min(bytes.len()) {
            bytes[place] = node.durable.get(place).copied().unwrap_or(0);
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write { at, bytes: more } => {
            let end = at + more.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(more);
        }
    }
}
