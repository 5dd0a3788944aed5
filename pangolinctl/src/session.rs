//! A session with the API: who is asked, and how answers are printed.

use std::{path::PathBuf, time::Duration};

use http::Method;
use pangolin_core::Slug;
use pangolin_wire::{Answer, Client};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    args::{Global, Output},
    failure::Failure,
    print,
};

/// Where a packaged pangolind has its local socket.
const SOCKET: &str = "/run/pangolin/pangolin.sock";

/// What every verb needs.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    output: Output,
    /// The organisation that was named with `--org`.
    pub(crate) org: Option<Slug>,
}

impl Session {
    /// Finds out whom to ask, and how; requests are repeated for `patience` unless a timeout was given. Nothing is
    /// sent yet.
    pub(crate) fn open(global: &Global, patience: Duration) -> Result<Self, Failure> {
        let client = match (&global.socket, &global.endpoint) {
            (Some(socket), _) => Client::unix(socket),
            (None, Some(endpoint)) => {
                let key = key(global.key_file.as_ref())?;
                let ca = global.ca_file.as_ref().map(read).transpose()?;
                Client::https(endpoint, &key, ca.as_deref())?
            }
            (None, None) => {
                Client::unix(std::env::var_os("PANGOLIN_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from))
            }
        };
        let client = client.with_deadline(global.timeout.unwrap_or(patience));
        Ok(Self { client, output: global.output, org: global.org.clone() })
    }

    /// Whether programs read the output.
    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Reads.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        Ok(self.client.send(Method::GET, path, None, Uuid::new_v4()).await?)
    }

    /// Reads what takes its time.
    pub(crate) async fn get_patiently(&self, path: &str, patience: Duration) -> Result<Answer, Failure> {
        Ok(self.client.send_within(Method::GET, path, None, Uuid::new_v4(), patience).await?)
    }

    /// Creates.
    pub(crate) async fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.write(Method::PUT, path, body).await
    }

    /// Updates.
    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.write(Method::POST, path, body).await
    }

    /// Creates what takes its time.
    pub(crate) async fn put_patiently(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let request = Uuid::new_v4();
        Ok(self.client.send_within(Method::PUT, path, Some(json(body)?), request, patience).await?)
    }

    /// Does what takes its time.
    pub(crate) async fn post_patiently(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let request = Uuid::new_v4();
        Ok(self.client.send_within(Method::POST, path, Some(json(body)?), request, patience).await?)
    }

    /// Removes, and says so.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        let answer = self.client.send(Method::DELETE, path, None, Uuid::new_v4()).await?;
        self.done(&answer)
    }

    /// Removes what takes its time, and says so.
    pub(crate) async fn delete_patiently(&self, path: &str, patience: Duration) -> Result<(), Failure> {
        let answer = self.client.send_within(Method::DELETE, path, None, Uuid::new_v4(), patience).await?;
        self.done(&answer)
    }

    async fn write(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        Ok(self.client.send(method, path, Some(json(body)?), Uuid::new_v4()).await?)
    }

    /// The typed data of an answer.
    pub(crate) fn parse<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, Failure> {
        Ok(answer.parse(self.client.endpoint())?)
    }

    /// Prints an answer: its data as JSON, or the text that `human` makes of it.
    pub(crate) fn show<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        human: impl FnOnce(T) -> String,
    ) -> Result<(), Failure> {
        if self.is_json() {
            return print::json(&answer.data);
        }
        print::line(&human(self.parse(answer)?))?;
        self.note_rest(answer);
        Ok(())
    }

    /// Prints that something was done: the answer's data as JSON, or its message.
    pub(crate) fn done(&self, answer: &Answer) -> Result<(), Failure> {
        if self.is_json() { print::json(&answer.data) } else { print::line(&answer.message) }
    }

    /// Says so when a list has more entries than were sent.
    fn note_rest(&self, answer: &Answer) {
        let number = |name: &str| answer.data["pagination"][name].as_u64();
        if let (Some(total), Some(limit)) = (number("total"), number("limit"))
            && total > limit
        {
            print::remark(&format!("The first {limit} of {total} are shown."));
        }
    }
}

fn json(body: &impl Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(body)
        .map_err(|error| Failure::new(format!("the request cannot be written as JSON: {error}")))
}

fn key(file: Option<&PathBuf>) -> Result<String, Failure> {
    let key = match file {
        Some(file) => String::from_utf8(read(file)?)
            .map_err(|_| Failure::usage(format!("{} does not hold a key: it is not text", file.display())))?,
        None => std::env::var("PANGOLIN_KEY").map_err(|_| {
            Failure::usage("an endpoint needs an API key").hint("Give it with --key-file or PANGOLIN_KEY.")
        })?,
    };
    let key = key.trim().to_owned();
    if key.split_once('.').is_none_or(|(id, secret)| id.is_empty() || secret.is_empty()) {
        return Err(Failure::usage("the API key is not of the form ID.SECRET")
            .hint("`pangolinctl key create` prints a new one."));
    }
    Ok(key)
}

pub(crate) fn read(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))
}
