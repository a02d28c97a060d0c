//! What is laid over what, and which words are understood.

use std::ffi::OsString;
use std::path::Path;

use figment::providers::{Data, Format, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};
use serde_json::Value as Json;

use super::{Config, ConfigError, DEFAULTS};

const PREFIX: &str = "BUHO_";
const BETWEEN: &str = "__";

/// A variable of the environment: its name and its value.
pub(super) type Variable = (OsString, OsString);

/// A file of options.
pub(super) struct FileLayer {
    /// What messages call it.
    origin: String,
    data: Data<Toml>,
    options: Dict,
}

/// An option that the environment sets.
pub(super) struct EnvironmentOption {
    variable: String,
    section: String,
    option: String,
    text: String,
}

impl FileLayer {
    pub(super) fn open(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
            file: file.clone(),
            source,
        })?;
        Self::read(&file, &text)
    }

    pub(super) fn read(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let data = Toml::string(text);
        let mut read = data.data().map_err(|error| ConfigError::Syntax {
            origin: origin.to_owned(),
            reason: on_one_line(&error.kind.to_string()),
        })?;
        let options = read.remove(&Profile::Default).unwrap_or_default();
        Ok(Self {
            origin: origin.to_owned(),
            data,
            options,
        })
    }

    fn sets(&self, section: &str, option: Option<&str>) -> bool {
        match (self.options.get(section), option) {
            (Some(Value::Dict(_, options)), Some(option)) => options.contains_key(option),
            (set, _) => set.is_some(),
        }
    }

    fn check_words(&self, known: &Known) -> Result<(), ConfigError> {
        let misread = self
            .options
            .iter()
            .find_map(|(section, value)| known.misread(section, value));
        misread.map_or(Ok(()), |(word, nearest)| {
            Err(ConfigError::Unknown {
                word: format!("`{word}` in {}", self.origin),
                nearest,
            })
        })
    }
}

/// The options among the variables: names such as `BUHO_SERVER__LISTEN`. Others are not ours and are left alone.
pub(super) fn environment(
    variables: impl IntoIterator<Item = Variable>,
) -> Result<Vec<EnvironmentOption>, ConfigError> {
    let mut found = Vec::new();
    for (name, text) in variables {
        let Some(variable) = name.to_str() else {
            continue;
        };
        let Some((section, option)) = variable
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once(BETWEEN))
        else {
            continue;
        };
        let text = text.into_string().map_err(|_| ConfigError::Invalid {
            place: format!("the environment variable {variable}"),
            reason: "its value is not UTF-8".to_owned(),
        })?;
        let (section, option) = (section.to_lowercase(), option.to_lowercase());
        found.push(EnvironmentOption {
            variable: variable.to_owned(),
            section,
            option,
            text,
        });
    }
    found.sort_by(|a, b| a.variable.cmp(&b.variable));
    Ok(found)
}

/// Lays the environment over the file over the defaults.
pub(super) fn merge(
    file: Option<&FileLayer>,
    environment: &[EnvironmentOption],
) -> Result<Config, ConfigError> {
    let defaults = Figment::from(Toml::string(DEFAULTS));
    let known = Known::of(&extract(&defaults, None, &[])?);
    let mut figment = defaults;
    if let Some(file) = file {
        file.check_words(&known)?;
        figment = figment.merge(&file.data);
    }
    for set in environment {
        let Some(default) = known.default_of(&set.section, &set.option) else {
            return Err(unknown_variable(set, &known));
        };
        figment = figment.merge((
            format!("{}.{}", set.section, set.option),
            typed(&set.text, default),
        ));
    }
    extract(&figment, file, environment)
}

fn unknown_variable(set: &EnvironmentOption, known: &Known) -> ConfigError {
    let (section, option) = known.nearest(&set.section, &set.option);
    ConfigError::Unknown {
        word: format!("the environment variable {}", set.variable),
        nearest: format!(
            "{PREFIX}{}{BETWEEN}{}",
            section.to_uppercase(),
            option.to_uppercase()
        ),
    }
}

/// What a text of the environment says, read as the kind of value that the option has.
fn typed(text: &str, default: &Json) -> Value {
    let read = || text.parse::<Value>().unwrap_or_else(|never| match never {});
    match default {
        Json::String(_) => Value::from(text),
        Json::Array(_) if !text.starts_with('[') => {
            let items: Vec<&str> = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .collect();
            Value::from(items)
        }
        Json::Array(_) | Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => read(),
    }
}

fn extract(
    figment: &Figment,
    file: Option<&FileLayer>,
    environment: &[EnvironmentOption],
) -> Result<Config, ConfigError> {
    figment.extract().map_err(|error| {
        let section = error.path.first().map_or("", String::as_str);
        let option = error.path.get(1).map(String::as_str);
        let from_environment = environment
            .iter()
            .find(|set| set.section == section && Some(&*set.option) == option);
        let from_file = file.filter(|file| file.sets(section, option));
        let origin = match (from_environment, from_file) {
            (Some(set), _) => format!(" (the environment variable {})", set.variable),
            (None, Some(file)) => format!(" ({})", file.origin),
            (None, None) => String::new(),
        };
        let name = option.map_or_else(
            || section.to_owned(),
            |option| format!("{section}.{option}"),
        );
        ConfigError::Invalid {
            place: format!("`{name}`{origin}"),
            reason: on_one_line(&error.kind.to_string()),
        }
    })
}

/// The words that are understood, with their defaults.
struct Known(Vec<(String, String, Json)>);

impl Known {
    /// Takes them from the defaults themselves, so that no second list of names can be wrong.
    fn of(defaults: &Config) -> Self {
        let sections = match serde_json::to_value(defaults) {
            Ok(Json::Object(sections)) => sections,
            Ok(_) | Err(_) => serde_json::Map::new(),
        };
        let mut known = Vec::new();
        for (section, options) in sections {
            if let Json::Object(options) = options {
                known.extend(
                    options
                        .into_iter()
                        .map(|(option, default)| (section.clone(), option, default)),
                );
            }
        }
        Self(known)
    }

    fn has_section(&self, section: &str) -> bool {
        self.0.iter().any(|(known, _, _)| known == section)
    }

    fn has(&self, section: &str, option: &str) -> bool {
        self.default_of(section, option).is_some()
    }

    fn default_of(&self, section: &str, option: &str) -> Option<&Json> {
        let mut matching = self
            .0
            .iter()
            .filter(|(known, word, _)| known == section && word == option);
        matching.next().map(|(_, _, default)| default)
    }

    /// The first word in a section that no option has, and a word that would be understood.
    fn misread(&self, section: &str, value: &Value) -> Option<(String, String)> {
        let Value::Dict(_, options) = value else {
            let stray = || (section.to_owned(), quoted(&self.nearest_to_option(section)));
            return (!self.has_section(section)).then(stray);
        };
        if options.is_empty() && !self.has_section(section) {
            return Some((
                format!("[{section}]"),
                format!("`[{}]`", self.nearest_section(section)),
            ));
        }
        let option = options.keys().find(|option| !self.has(section, option))?;
        Some((
            format!("{section}.{option}"),
            quoted(&self.nearest(section, option)),
        ))
    }

    fn nearest(&self, section: &str, option: &str) -> (String, String) {
        self.nearest_by(|known, word| {
            strsim::damerau_levenshtein(known, section) + strsim::damerau_levenshtein(word, option)
        })
    }

    /// The nearest option to a word that stands alone, outside of any section.
    fn nearest_to_option(&self, option: &str) -> (String, String) {
        self.nearest_by(|_, word| strsim::damerau_levenshtein(word, option))
    }

    fn nearest_section(&self, section: &str) -> String {
        self.nearest_by(|known, _| strsim::damerau_levenshtein(known, section))
            .0
    }

    fn nearest_by(&self, distance: impl Fn(&str, &str) -> usize) -> (String, String) {
        let nearest = self
            .0
            .iter()
            .min_by_key(|(section, option, _)| distance(section, option));
        nearest
            .map(|(section, option, _)| (section.clone(), option.clone()))
            .unwrap_or_default()
    }
}

fn quoted((section, option): &(String, String)) -> String {
    format!("`{section}.{option}`")
}

/// A parser's drawing of several lines, as one line without the drawing.
fn on_one_line(text: &str) -> String {
    let said = text
        .lines()
        .filter(|line| !line.contains('|'))
        .map(str::trim)
        .filter(|line| !line.is_empty());
    said.collect::<Vec<_>>().join(": ")
}
