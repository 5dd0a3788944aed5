//! The configuration file: TOML with names of this program, or the JSON that a Newt reads.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{BackendName, OptionsError, Secret, newt};

/// What a file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) id: Option<String>,
    pub(super) secret: Option<Secret>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) provisioning_key: Option<Secret>,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) site_name: Option<String>,
    #[serde(default)]
    pub(super) endpoint: OneOrMore,
    pub(super) server_name: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) tunnels: Option<usize>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) mtu: Option<u16>,
    pub(super) backend: Option<BackendName>,
    pub(super) health_file: Option<PathBuf>,
    pub(super) status_file: Option<PathBuf>,
    pub(super) log_level: Option<String>,
    /// Further certificates to trust, as a Newt names them.
    #[serde(default)]
    pub(super) tls_client_ca: Vec<PathBuf>,
    /// Not to be obeyed.
    #[serde(default)]
    pub(super) skip_tls_verify: bool,
    /// What a Newt would understand and means nothing here.
    #[serde(skip)]
    pub(super) without_meaning: Vec<String>,
}

/// The names above, for JSON.
const NAMES: [&str; 18] = [
    "id",
    "secret",
    "secret_file",
    "provisioning_key",
    "credentials_file",
    "site_name",
    "endpoint",
    "server_name",
    "ca_file",
    "tunnels",
    "key_file",
    "mtu",
    "backend",
    "health_file",
    "status_file",
    "log_level",
    "tls_client_ca",
    "skip_tls_verify",
];

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    pub(super) fn all(self) -> Vec<String> {
        match self {
            Self::One(text) => text.split(',').map(|text| text.trim().to_owned()).collect(),
            Self::More(texts) => texts,
        }
    }
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, OptionsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| OptionsError::Read { path: path.to_owned(), source })?;
        if !text.trim_start().starts_with('{') {
            return toml::from_str(&text)
                .map_err(|source| OptionsError::Parse { path: path.to_owned(), source: Box::new(source) });
        }
        let mut file =
            Self::from_json(&text).map_err(|reason| OptionsError::Json { path: path.to_owned(), reason })?;
        // A Newt writes its credentials into its file. Here that stays as it is, and they are kept beside it.
        if file.credentials_file.is_none() {
            let mut beside = path.as_os_str().to_owned();
            beside.push(".credentials");
            file.credentials_file = Some(beside.into());
        }
        Ok(file)
    }

    /// Reads JSON as a Newt does: names in any case, with what is empty as if it were missing.
    fn from_json(text: &str) -> Result<Self, String> {
        let given: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let (mut known, mut without_meaning) = (Map::new(), Vec::new());
        for (key, value) in given.into_iter().filter(|(_, value)| !is_empty(value)) {
            let name = newt::folded(&key);
            let own = NAMES.iter().find(|own| newt::folded(own) == name).copied();
            match own.or((name == "name").then_some("site_name")) {
                Some(own) => drop(known.insert(own.to_owned(), number(own, value))),
                None => without_meaning
                    .extend(newt::in_file(&key, &value).ok_or_else(|| format!("unknown field `{key}`"))?),
            }
        }
        let file: Self = serde_json::from_value(Value::Object(known)).map_err(|error| error.to_string())?;
        Ok(Self { without_meaning, ..file })
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        _ => false,
    }
}

/// An MTU may be written as a text.
fn number(name: &str, value: Value) -> Value {
    let parsed = value.as_str().filter(|_| name == "mtu").and_then(|text| text.parse::<u16>().ok());
    parsed.map_or(value, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_of_a_field() {
        for name in NAMES {
            let unknown =
                toml::from_str::<File>(&format!("{name} = {{ }}")).err().map(|error| error.to_string());
            assert!(!unknown.is_some_and(|error| error.contains("unknown field")), "{name}");
        }
    }
}
