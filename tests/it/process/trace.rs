//! Reading what `strace -f -y -xx` wrote: which calls began and ended in which order, with their bytes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The calls that are traced: all that changes files, places in them, and what leaves over sockets.
pub(crate) const TRACED: &str = "trace=openat,creat,read,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,\
     renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync_file_range,close,lseek,\
     dup,dup2,dup3,fcntl,copy_file_range,sendto,sendmsg";

/// One system call. Its arguments stand as `strace` wrote them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    /// Negative for a failure; `None` where the process died in the call.
    pub(crate) result: Option<i64>,
}

/// A call, by its place in the trace, begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Begins(usize),
    Ends(usize),
}

/// A whole trace.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
    pub(crate) moments: Vec<Moment>,
}

impl Trace {
    pub(crate) fn read(log: &Path) -> Self {
        let mut trace = Self::default();
        let mut open: HashMap<String, (usize, String)> = HashMap::new();
        for line in BufReader::new(File::open(log).unwrap()).lines() {
            let line = line.unwrap();
            let (thread, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let rest = rest.trim_start();
            if let Some(resumed) = rest.strip_prefix("<... ") {
                // A call that began before the log did is not ours.
                let Some((index, begun)) = open.remove(thread) else {
                    continue;
                };
                let (_, end) = resumed.split_once(" resumed>").unwrap_or((resumed, ""));
                trace.end(index, &format!("{begun}{end}"));
            } else if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
                let index = trace.begin(begun);
                open.insert(thread.into(), (index, begun.into()));
            } else if rest.contains('(') && rest.contains(" = ") {
                let index = trace.begin(rest);
                trace.end(index, rest);
            }
        }
        trace
    }

    /// Enters the begin of a call with what is known of its arguments.
    fn begin(&mut self, text: &str) -> usize {
        let (name, arguments) = text.split_once('(').unwrap_or((text, ""));
        let arguments = arguments
            .rsplit_once(" = ")
            .map_or(arguments, |(before, _)| closed(before));
        self.calls.push(Call {
            name: name.into(),
            arguments: split(arguments),
            result: None,
        });
        self.moments.push(Moment::Begins(self.calls.len() - 1));
        self.calls.len() - 1
    }

    fn end(&mut self, index: usize, text: &str) {
        let (call, result) = text.rsplit_once(" = ").unwrap_or((text, "?"));
        let result: String = result
            .chars()
            .take_while(|it| it.is_ascii_digit() || *it == '-')
            .collect();
        // `?`: the process died in the call, and what it did is unknown.
        if let Ok(result) = result.parse() {
            self.calls[index].arguments =
                split(call.split_once('(').map_or("", |(_, it)| closed(it)));
            self.calls[index].result = Some(result);
            self.moments.push(Moment::Ends(index));
        }
    }
}

impl Call {
    /// The descriptor in an argument.
    pub(crate) fn descriptor(&self, place: usize) -> Option<i64> {
        let digits: String = self
            .arguments
            .get(place)?
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    }

    /// What the descriptor in an argument stands for, as `-y` tells it.
    pub(crate) fn behind(&self, place: usize) -> String {
        let text = self.arguments.get(place).map_or("", String::as_str);
        let inner = text
            .split_once('<')
            .and_then(|(_, rest)| rest.rsplit_once('>'));
        inner
            .map(|(path, _)| String::from_utf8_lossy(&unescape(path)).into_owned())
            .unwrap_or_default()
    }

    /// The path in an argument, seen from the folder in the one before it where there is one.
    pub(crate) fn path(&self, folder: Option<usize>, place: usize) -> PathBuf {
        let name = PathBuf::from(OsString::from_vec(self.bytes(place)));
        folder.map_or(name.clone(), |folder| {
            Path::new(&self.behind(folder)).join(name)
        })
    }

    /// All bytes in an argument: of one text, or of a vector of them.
    pub(crate) fn bytes(&self, place: usize) -> Vec<u8> {
        let text = self.arguments.get(place).map_or("", String::as_str);
        assert!(!text.contains("\"..."), "strace cut a text short");
        text.split('"')
            .skip(1)
            .step_by(2)
            .flat_map(unescape)
            .collect()
    }

    pub(crate) fn number(&self, place: usize) -> u64 {
        let text = self.arguments.get(place).map_or("", String::as_str);
        let hexadecimal = text
            .strip_prefix("0x")
            .map(|digits| u64::from_str_radix(digits, 16));
        hexadecimal
            .unwrap_or_else(|| text.parse())
            .unwrap_or_else(|_| panic!("no number: {self:?}"))
    }

    pub(crate) fn says(&self, place: usize, flag: &str) -> bool {
        self.arguments
            .get(place)
            .is_some_and(|it| it.split('|').any(|it| it == flag))
    }
}

/// The arguments before the bracket that closes them; `strace` sets the results of short calls in a column.
fn closed(text: &str) -> &str {
    let text = text.trim_end();
    text.strip_suffix(')').unwrap_or(text)
}

/// Arguments stand between commas, but not between those within brackets. Texts are hexadecimal and hold neither.
fn split(text: &str) -> Vec<String> {
    let (mut pieces, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    for (place, letter) in text.char_indices() {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                pieces.push(text[from..place].trim().to_owned());
                from = place + 1;
            }
            _ => {}
        }
    }
    pieces.push(text[from..].trim().to_owned());
    pieces
}

/// The bytes behind `\x68\x6f`.
fn unescape(text: &str) -> Vec<u8> {
    let digit = |letter: u8| u8::try_from(char::from(letter).to_digit(16).unwrap()).unwrap();
    let (letters, mut bytes, mut place) = (text.as_bytes(), Vec::with_capacity(text.len() / 4), 0);
    while place < letters.len() {
        if letters[place] == b'\\' && letters.get(place + 1) == Some(&b'x') {
            bytes.push(digit(letters[place + 2]) * 16 + digit(letters[place + 3]));
            place += 4;
        } else {
            bytes.push(letters[place]);
            place += 1;
        }
    }
    bytes
}
