//! One method for each thing that is asked of an authority. Each is safe to repeat, where its comment says how.

use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::{
    answer::{self, Authorization, Directory, RenewalInfo, Submitted},
    error::{AcmeError, Problem},
    jws::{AccountKey, base64},
    transport::{Response, Transport},
};

/// Attempts of a request whose nonce is refused. Authorities may refuse good ones (RFC 8555 §6.5): at Pebble's rate of
/// a half, one request in four thousand needs more.
const NONCE_ATTEMPTS: usize = 12;
/// Nonces that are kept for later requests.
const NONCES_MAX: usize = 8;

/// An account: its key, and where the authority has it.
#[derive(Debug)]
pub struct Account {
    /// Its key.
    pub key: AccountKey,
    /// Its address.
    pub url: String,
}

/// An account that the authority gave by other means.
#[derive(Clone)]
pub struct External {
    /// Its name.
    pub key_id: String,
    /// The key that proves it.
    pub key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "External({})", self.key_id)
    }
}

/// What is ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewOrder {
    /// The names.
    pub names: Vec<String>,
    /// Profile of the certificate.
    pub profile: Option<String>,
    /// The certificate that it replaces, as [`AcmeClient::renewal_info`] names it.
    pub replaces: Option<String>,
}

/// A client of one authority's directory. Cheap to share.
pub struct AcmeClient {
    url: String,
    transport: Transport,
    directory: OnceCell<Arc<Directory>>,
    nonces: Mutex<Vec<String>>,
}

impl std::fmt::Debug for AcmeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AcmeClient({})", self.url)
    }
}

impl AcmeClient {
    /// A client for a directory, which is asked for when it is needed; what stands behind a `#` of its address is not
    /// asked for (RFC 3986 §3.5). `roots` are trusted besides what the system trusts, DER; `user_agent` says who asks (RFC
    /// 8555 §6.1).
    ///
    /// # Errors
    /// A certificate that cannot be trusted, or none at all.
    pub fn new(directory: &str, roots: &[Vec<u8>], user_agent: &str) -> Result<Self, AcmeError> {
        Ok(Self {
            url: directory.split('#').next().unwrap_or_default().to_owned(),
            transport: Transport::new(roots, user_agent.to_owned())?,
            directory: OnceCell::new(),
            nonces: Mutex::default(),
        })
    }

    /// Where the authority's resources are.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn directory(&self) -> Result<Arc<Directory>, AcmeError> {
        let asked = async {
            let response = self.transport.exchange(Method::GET, &self.url, None).await?;
            let directory = serde_json::from_value(self.json(&response)?);
            directory.map(Arc::new).map_err(|error| self.foreign(format!("not a directory: {error}")))
        };
        self.directory.get_or_try_init(|| asked).await.cloned()
    }

    /// Registers the account of a key, or finds the one that the key has already. Gives its address.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn register(
        &self,
        key: &AccountKey,
        contacts: &[String],
        external: Option<&External>,
    ) -> Result<String, AcmeError> {
        let directory = self.directory().await?;
        let mut payload = json!({ "termsOfServiceAgreed": true });
        if !contacts.is_empty() {
            payload["contact"] = json!(contacts);
        }
        if let Some(External { key_id, key: secret }) = external {
            payload["externalAccountBinding"] = key.bind(key_id, secret, &directory.new_account);
        }
        let response = self.post(key, None, &directory.new_account, Some(&payload)).await?;
        self.location(&response)
    }

    /// Has an account known by another key from here on (RFC 8555 §7.3.5). Safe to repeat: an authority that has taken the
    /// key already is asked for nothing.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn change_key(&self, account: &Account, next: &AccountKey) -> Result<(), AcmeError> {
        if self.account_of(next).await?.is_some_and(|url| url == account.url) {
            return Ok(());
        }
        let directory = self.directory().await?;
        let refused = || Problem {
            status: 0,
            kind: String::new(),
            detail: format!("{} exchanges no keys of accounts", self.url),
            retry_after: None,
        };
        let url = directory.key_change.as_ref().ok_or_else(refused)?;
        let payload = next.take_over(&account.url, &account.key, url)?;
        self.post_as(account, url, Some(&payload)).await.map(|_| ())
    }

    /// The account that a key has at the authority; none where it has none (RFC 8555 §7.3.1).
    async fn account_of(&self, key: &AccountKey) -> Result<Option<String>, AcmeError> {
        let directory = self.directory().await?;
        let payload = json!({ "onlyReturnExisting": true });
        match self.post(key, None, &directory.new_account, Some(&payload)).await {
            Ok(response) => self.location(&response).map(Some),
            Err(AcmeError::Refused(problem)) if problem.is("accountDoesNotExist") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Places an order. A repeat places another one, except where the authority gives the pending one back. A profile that
    /// the directory does not list is refused here; a directory that lists none leaves it to the authority.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn new_order(&self, account: &Account, order: &NewOrder) -> Result<Submitted, AcmeError> {
        let directory = self.directory().await?;
        if let Some(problem) = order.profile.as_deref().and_then(|name| directory.refuses_profile(name)) {
            return Err(problem.into());
        }
        let identifiers: Vec<Value> =
            order.names.iter().map(|name| json!({ "type": "dns", "value": name })).collect();
        let mut payload = json!({ "identifiers": identifiers });
        if let Some(profile) = &order.profile {
            payload["profile"] = json!(profile);
        }
        if let Some(replaces) = &order.replaces {
            payload["replaces"] = json!(replaces);
        }
        let response = self.post_as(account, &directory.new_order, Some(&payload)).await?;
        let url = self.location(&response)?;
        self.submitted(&url, &response)
    }

    /// Reads an order.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn order(&self, account: &Account, url: &str) -> Result<Submitted, AcmeError> {
        let response = self.post_as(account, url, None).await?;
        self.submitted(url, &response)
    }

    /// Reads the proof of a name.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn authorization(&self, account: &Account, url: &str) -> Result<Authorization, AcmeError> {
        let response = self.post_as(account, url, None).await?;
        answer::authorization(self.json(&response)?, response.retry_after()).map_err(|why| self.foreign(why))
    }

    /// Tells the authority to look at a challenge. One that it looks at, or has looked at, already counts as told:
    /// authorities refuse a repeat as malformed.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn trigger(&self, account: &Account, challenge: &str) -> Result<(), AcmeError> {
        match self.post_as(account, challenge, Some(&json!({}))).await {
            Err(AcmeError::Refused(problem)) if problem.is("malformed") && problem.status == 400 => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Has an order issued. One that is being issued already, or was, is answered as it is now.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn finalize(
        &self,
        account: &Account,
        order: &Submitted,
        csr: &[u8],
    ) -> Result<Submitted, AcmeError> {
        match self.post_as(account, &order.finalize, Some(&json!({ "csr": base64(csr) }))).await {
            Ok(response) => self.submitted(&order.url, &response),
            Err(AcmeError::Refused(problem)) if problem.is("orderNotReady") => {
                self.order(account, &order.url).await
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches a certificate: its chain, leaf first, DER.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn certificate(&self, account: &Account, url: &str) -> Result<Vec<Vec<u8>>, AcmeError> {
        let response = self.post_as(account, url, None).await?;
        let chain: Result<Vec<Vec<u8>>, _> =
            CertificateDer::pem_slice_iter(&response.body).map(|der| der.map(|der| der.to_vec())).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Ok(chain),
            Ok(_) => Err(self.foreign("a chain without certificates".to_owned())),
            Err(error) => Err(self.foreign(format!("a chain that is not PEM: {error}"))),
        }
    }

    /// Has a certificate declared void, for a reason (RFC 5280 §5.3.1). One that is void already counts as done.
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn revoke(&self, account: &Account, certificate: &[u8], reason: u8) -> Result<(), AcmeError> {
        let directory = self.directory().await?;
        let url =
            directory.revoke_cert.as_ref().ok_or_else(|| self.foreign("it revokes nothing".to_owned()))?;
        let payload = json!({ "certificate": base64(certificate), "reason": reason });
        match self.post_as(account, url, Some(&payload)).await {
            Err(AcmeError::Refused(problem)) if problem.is("alreadyRevoked") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// When the authority wants a certificate to be renewed; none if it tells nobody. The certificate is named by the
    /// identifier of its authority's key and its serial number (RFC 9773 §4.1).
    ///
    /// # Errors
    /// See [`AcmeError`].
    pub async fn renewal_info(&self, key_id: &[u8], serial: &[u8]) -> Result<Option<RenewalInfo>, AcmeError> {
        let directory = self.directory().await?;
        let Some(url) = &directory.renewal_info else { return Ok(None) };
        let url = format!("{}/{}", url.trim_end_matches('/'), Self::certificate_id(key_id, serial));
        let response = self.transport.exchange(Method::GET, &url, None).await?;
        let info = answer::renewal_info(&self.json(&response)?, response.retry_after());
        info.map(Some).map_err(|why| self.foreign(why))
    }

    /// How a certificate is named to its authority (RFC 9773 §4.1).
    #[must_use]
    pub fn certificate_id(key_id: &[u8], serial: &[u8]) -> String {
        format!("{}.{}", base64(key_id), base64(serial))
    }

    async fn post_as(
        &self,
        account: &Account,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Response, AcmeError> {
        self.post(&account.key, Some(&account.url), url, payload).await
    }

    /// A signed request, again with a fresh nonce while its nonce is refused.
    async fn post(
        &self,
        key: &AccountKey,
        account: Option<&str>,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Response, AcmeError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let nonce = self.nonce().await?;
            let body = key.sign(account, &nonce, url, payload)?;
            let response = self.transport.exchange(Method::POST, url, Some(body)).await?;
            self.keep_nonce(&response);
            if response.status < 400 {
                return Ok(response);
            }
            let problem = self.problem(&response);
            if !problem.is("badNonce") || attempts >= NONCE_ATTEMPTS {
                return Err(problem.into());
            }
        }
    }

    async fn nonce(&self) -> Result<String, AcmeError> {
        let kept = self.nonces.lock().pop();
        if let Some(nonce) = kept {
            return Ok(nonce);
        }
        let directory = self.directory().await?;
        let response = self.transport.exchange(Method::HEAD, &directory.new_nonce, None).await?;
        let nonce = response.header("replay-nonce").map(str::to_owned);
        nonce.ok_or_else(|| self.foreign(format!("status {} without a nonce", response.status)))
    }

    fn keep_nonce(&self, response: &Response) {
        if let Some(nonce) = response.header("replay-nonce") {
            let mut nonces = self.nonces.lock();
            nonces.push(nonce.to_owned());
            // The oldest is the first that the authority forgets.
            if nonces.len() > NONCES_MAX {
                nonces.remove(0);
            }
        }
    }

    fn problem(&self, response: &Response) -> Problem {
        let value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
        answer::problem(response.status, &value, response.retry_after())
    }

    fn json(&self, response: &Response) -> Result<Value, AcmeError> {
        if response.status >= 400 {
            return Err(self.problem(response).into());
        }
        serde_json::from_slice(&response.body).map_err(|error| self.foreign(format!("not JSON: {error}")))
    }

    fn submitted(&self, url: &str, response: &Response) -> Result<Submitted, AcmeError> {
        answer::order(url, self.json(response)?, response.retry_after()).map_err(|why| self.foreign(why))
    }

    fn location(&self, response: &Response) -> Result<String, AcmeError> {
        let location = response.header("location").map(str::to_owned);
        location.ok_or_else(|| self.foreign("an answer that does not say where the new thing is".to_owned()))
    }

    fn foreign(&self, reason: String) -> AcmeError {
        AcmeError::Foreign { host: self.url.clone(), reason }
    }
}
