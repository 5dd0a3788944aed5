//! Copies of backups in a bucket of an S3-compatible store.
//!
//! Requests are signed with AWS Signature Version 4 in the query, and the bucket is part of the path: that is what every
//! compatible store understands. What is sent is encrypted already; TLS keeps the signatures from being read.

use std::{io::Read as _, path::PathBuf, sync::Arc, time::Duration};

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle, actions::ListObjectsV2};
use ureq::{
    Agent, Body,
    http::Response,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    Header,
    file::{PEEK, peek},
    place::{Copies, Listed, SUFFIX},
};
use crate::StorageError;

/// How long a signature is good for.
const SIGNED_FOR: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request: a state of a gigabyte over 20 Mbit/s is not copied, the next smaller one is.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// A page of a list has at most a thousand keys.
const LIST_MAX: u64 = 4 << 20;
/// What a store says of an error, as far as it is repeated.
const COMPLAINT_MAX: u64 = 2048;

/// A bucket and the key to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketConfig {
    /// Where the store is: `https://host[:port]`.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// Its region; stores without regions accept any.
    pub region: String,
    /// What the keys of objects begin with; without a slash at either end.
    pub prefix: String,
    /// The id of the access key.
    pub key_id: String,
    /// The file with the secret of the access key.
    pub secret_file: PathBuf,
    /// Certificates that the store's own is checked against, PEM.
    pub authorities: PathBuf,
}

/// Backups in a bucket, below one prefix.
pub struct BucketPlace {
    bucket: Bucket,
    credentials: Credentials,
    /// Ends with a slash.
    prefix: String,
    agent: Agent,
    place: String,
}

impl BucketPlace {
    /// Names the place: `dir` below the configured prefix. Reads the files that the configuration names, and asks nothing
    /// of the store yet. Blocks.
    ///
    /// # Errors
    /// The endpoint is no URL, or one of the files cannot be read.
    pub fn new(config: &BucketConfig, dir: &str) -> Result<Self, StorageError> {
        let prefix = match config.prefix.as_str() {
            "" => format!("{dir}/"),
            prefix => format!("{prefix}/{dir}/"),
        };
        let place = format!("s3://{}/{prefix}", config.bucket);
        let wrong = |found: String| StorageError::Bucket { place: place.clone(), found };
        let endpoint = config
            .endpoint
            .parse()
            .map_err(|error| wrong(format!("the endpoint {:?} is not a URL: {error}", config.endpoint)))?;
        let bucket = Bucket::new(endpoint, UrlStyle::Path, config.bucket.clone(), config.region.clone())
            .map_err(|error| wrong(format!("the endpoint {:?} is of no use: {error}", config.endpoint)))?;
        let mut agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(REQUEST_TIMEOUT));
        if config.endpoint.starts_with("https:") {
            let authorities = std::fs::read(&config.authorities)
                .map_err(|error| StorageError::io("read", &config.authorities, &error))?;
            let certificates: Vec<_> = parse_pem(&authorities)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::from(certificates))
                .unversioned_rustls_crypto_provider(provider);
            agent = agent.tls_config(tls.build());
        }
        let secret = std::fs::read_to_string(&config.secret_file)
            .map_err(|error| StorageError::io("read", &config.secret_file, &error))?;
        let credentials = Credentials::new(config.key_id.clone(), secret.trim());
        Ok(Self { bucket, credentials, prefix, agent: agent.build().into(), place })
    }

    fn wrong(&self, found: impl Into<String>) -> StorageError {
        StorageError::Bucket { place: self.place.clone(), found: found.into() }
    }

    /// The answer to a request, if it says that all is well.
    fn good(
        &self,
        what: &str,
        answer: Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, StorageError> {
        let mut answer = answer.map_err(|error| self.wrong(format!("cannot {what}: {error}")))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let said = answer.body_mut().with_config().limit(COMPLAINT_MAX).lossy_utf8(true).read_to_string();
        let said = said.unwrap_or_default();
        Err(self.wrong(format!("cannot {what}: {} {}", answer.status(), said.trim())))
    }

    /// What a file says of itself.
    fn header_of(&self, name: &str) -> Result<Result<Header, String>, StorageError> {
        let url = self.bucket.get_object(Some(&self.credentials), &self.key(name)).sign(SIGNED_FOR);
        let request = self.agent.get(url.as_str()).header("range", format!("bytes=0-{}", PEEK - 1));
        let mut answer = self.good("read the begin of a file", request.call())?;
        // A store may send the whole of it all the same.
        let mut bytes = Vec::new();
        let begin = answer.body_mut().as_reader().take(PEEK).read_to_end(&mut bytes);
        begin.map_err(|error| self.wrong(format!("cannot read {name}: {error}")))?;
        Ok(peek(&bytes))
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Copies for BucketPlace {
    fn list(&self, known: &[Listed]) -> Result<Vec<Listed>, StorageError> {
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let mut list = self.bucket.list_objects_v2(Some(&self.credentials));
            list.with_prefix(self.prefix.as_str());
            if let Some(token) = token.take() {
                list.with_continuation_token(token);
            }
            let mut answer = self.good("list it", self.agent.get(list.sign(SIGNED_FOR).as_str()).call())?;
            let text = answer.body_mut().with_config().limit(LIST_MAX).read_to_string();
            let text = text.map_err(|error| self.wrong(format!("cannot list it: {error}")))?;
            let page = page(&text, &self.prefix)
                .map_err(|error| self.wrong(format!("its list makes no sense: {error}")))?;
            for (name, size) in page.files {
                let same = known.iter().find(|other| other.name == name && other.size == size);
                let header = match same {
                    Some(same) => same.header.clone(),
                    None => self.header_of(&name)?,
                };
                found.push(Listed { name, size, header });
            }
            token = page.next;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let url = self.bucket.put_object(Some(&self.credentials), &self.key(name)).sign(SIGNED_FOR);
        self.good("write a file", self.agent.put(url.as_str()).send(bytes)).map(drop)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        let url = self.bucket.delete_object(Some(&self.credentials), &self.key(name)).sign(SIGNED_FOR);
        self.good("remove a file", self.agent.delete(url.as_str()).call()).map(drop)
    }
}

/// A page of a store's list.
struct Page {
    /// Names and sizes of backups.
    files: Vec<(String, u64)>,
    /// Where the next page begins.
    next: Option<String>,
}

fn page(text: &str, prefix: &str) -> Result<Page, String> {
    let page = ListObjectsV2::parse_response(text).map_err(|error| error.to_string())?;
    let backup = |name: &str| !name.contains('/') && name.ends_with(SUFFIX);
    let files = page.contents.into_iter().filter_map(|object| {
        let name = object.key.strip_prefix(prefix).filter(|name| backup(name))?;
        Some((name.to_owned(), object.size.unwrap_or_default()))
    });
    Ok(Page { files: files.collect(), next: page.next_continuation_token })
}

/// See [`crate::fuzz`]: a store's answer to a request for a list.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(page) = page(text, "lab/") {
        assert!(page.files.iter().all(|(name, _)| !name.contains('/')), "{:?}", page.files);
    }
}
