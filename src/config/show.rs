//! The configuration in force, for people to read and for a file to be made of.

use serde_json::Value;

use super::Config;

impl Config {
    /// The configuration as TOML that [`Config::from_toml`] reads back. Options that are not set stand as comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let sections = serde_json::to_value(self).unwrap_or_default();
        for (section, options) in sections.as_object().into_iter().flatten() {
            let between = if out.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{between}[{section}]\n"));
            for (option, value) in options.as_object().into_iter().flatten() {
                out.push_str(&line(option, value));
            }
        }
        out
    }
}

/// JSON's texts, numbers, booleans and lists are TOML's too; only its null is not.
fn line(option: &str, value: &Value) -> String {
    if value.is_null() {
        format!("# {option} is not set\n")
    } else {
        format!("{option} = {value}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_back() {
        let lines = "[store]\npath = 'a \"quoted\" folder'\n[server]\nallowed_origins = ['https://a.example']";
        let config = Config::from_toml(lines).unwrap();
        let shown = config.to_toml();
        assert!(shown.contains("# min_free is not set"), "{shown}");
        assert_eq!(Config::from_toml(&shown).unwrap(), config);
    }
}
