//! What stands between the cluster and the authority: it hands requests on as they are, counts them, and can hold one
//! up, before the authority sees it or after; it can refuse, as an authority with rate limits does; and it adds renewal
//! information, which Debian's Pebble does not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::pebble::Pebble;

/// What is asked, by where Pebble has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    NewAccount,
    KeyChange,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    RenewalInfo,
    Other,
}

impl Asked {
    fn of(path: &str) -> Self {
        let places = [
            ("/sign-me-up", Self::NewAccount),
            ("/rollover-account-key", Self::KeyChange),
            ("/order-plz", Self::NewOrder),
            ("/my-order/", Self::Order),
            ("/authZ/", Self::Authorization),
            ("/chalZ/", Self::Challenge),
            ("/finalize-order/", Self::Finalize),
            ("/certZ/", Self::Certificate),
            ("/renewal-info/", Self::RenewalInfo),
        ];
        places.into_iter().find(|(start, _)| path.starts_with(start)).map_or(Self::Other, |(_, asked)| asked)
    }
}

/// Which side of the authority a request is held up on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It never gets there.
    Before,
    /// It does, and its answer never comes back.
    After,
}

#[derive(Default)]
struct Rules {
    /// The next request of this kind is held up.
    trap: Option<(Asked, Side)>,
    /// New orders are refused.
    limited: bool,
    /// It tells when to renew: the first certificates now, later ones not.
    renewal_info: bool,
    /// Requests that the authority has seen.
    seen: BTreeMap<Asked, usize>,
    /// Orders that were finalised.
    finalized: BTreeSet<String>,
    /// New orders that named the certificate that they replace.
    replacing: usize,
    /// Certificates asked about.
    asked_about: Vec<String>,
    /// Profiles that its directory lists; none = it lists none.
    profiles: Option<Value>,
    /// It takes no order of a profile.
    refuses_profiles: bool,
    /// It answers everything with this status.
    broken: Option<StatusCode>,
    /// What it has a fault of its own with.
    dead_for: Option<Asked>,
    /// What new orders said.
    ordered: Vec<Value>,
}

pub(crate) struct Front {
    pub(crate) directory: String,
    /// While it refuses connections: what it will listen with.
    closed: Mutex<Option<(TcpSocket, Arc<Inside>, TlsAcceptor)>>,
    rules: Arc<Mutex<Rules>>,
    caught: watch::Sender<usize>,
}

struct Inside {
    authority: SocketAddr,
    own: String,
    connector: TlsConnector,
    rules: Arc<Mutex<Rules>>,
    caught: watch::Sender<usize>,
}

impl Front {
    pub(crate) fn start(pebble: &Pebble) -> Self {
        let front = Self::refusing(pebble);
        front.open();
        front
    }

    /// One that refuses connections until it is opened.
    pub(crate) fn refusing(pebble: &Pebble) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let own = format!("localhost:{}", socket.local_addr().expect("an address").port());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificate = CertificateDer::from(pebble.identity.certificate.clone());
        let key = PrivateKeyDer::Pkcs8(pebble.identity.key.clone().into());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a key");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).expect("trusted");
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (rules, caught) = (Arc::new(Mutex::new(Rules::default())), watch::channel(0).0);
        let inside = Arc::new(Inside {
            authority: pebble.acme,
            own: own.clone(),
            connector: TlsConnector::from(Arc::new(client)),
            rules: rules.clone(),
            caught: caught.clone(),
        });
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let closed = Mutex::new(Some((socket, inside, acceptor)));
        Self { directory: format!("https://{own}/dir"), closed, rules, caught }
    }

    /// Lets everybody in.
    pub(crate) fn open(&self) {
        let closed = self.closed.lock().expect("no panic").take();
        let Some((socket, inside, acceptor)) = closed else { return };
        let listener = socket.listen(128).expect("it listens");
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (acceptor, inside) = (acceptor.clone(), inside.clone());
                tokio::spawn(async move {
                    let Ok(connection) = acceptor.accept(connection).await else { return };
                    let service = service_fn(move |request| {
                        let inside = inside.clone();
                        async move { Ok::<_, std::convert::Infallible>(inside.serve(request).await) }
                    });
                    // A client that goes away is no trouble.
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.rules.lock().expect("no panic")
    }

    /// Holds up the next request of a kind, for as long as its client waits.
    pub(crate) fn trap(&self, asked: Asked, side: Side) {
        self.rules().trap = Some((asked, side));
    }

    /// Waits until so many requests have been held up.
    pub(crate) async fn caught(&self, count: usize, patience: Duration) -> bool {
        let mut caught = self.caught.subscribe();
        tokio::time::timeout(patience, caught.wait_for(|caught| *caught >= count)).await.is_ok()
    }

    pub(crate) fn set_limited(&self, limited: bool) {
        self.rules().limited = limited;
    }

    pub(crate) fn tell_when_to_renew(&self) {
        self.rules().renewal_info = true;
    }

    /// Its directory lists these profiles.
    pub(crate) fn list_profiles(&self, names: &[&str]) {
        let listed: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!(format!("https://ca.test/{name}")))).collect();
        self.rules().profiles = Some(Value::Object(listed));
    }

    /// It takes no order of a profile, as an authority that does not know it.
    pub(crate) fn refuse_profiles(&self) {
        self.rules().refuses_profiles = true;
    }

    /// Everything is answered with this status from now on; none = as the authority does.
    pub(crate) fn break_with(&self, status: Option<StatusCode>) {
        self.rules().broken = status;
    }

    /// It has a fault of its own with everything of this kind, which the authority never sees; none = with nothing.
    pub(crate) fn die_for(&self, asked: Option<Asked>) {
        self.rules().dead_for = asked;
    }

    /// What new orders said, signed as they were.
    pub(crate) fn ordered(&self) -> Vec<Value> {
        self.rules().ordered.clone()
    }

    pub(crate) fn seen(&self, asked: Asked) -> usize {
        self.rules().seen.get(&asked).copied().unwrap_or(0)
    }

    /// Orders that were finalised, each counted once however often it was asked for.
    pub(crate) fn finalized(&self) -> usize {
        self.rules().finalized.len()
    }

    pub(crate) fn replacing(&self) -> usize {
        self.rules().replacing
    }
}

impl Inside {
    fn trapped(&self, asked: Asked, side: Side) -> bool {
        let mut rules = self.rules.lock().expect("no panic");
        let trapped = rules.trap == Some((asked, side));
        if trapped {
            rules.trap = None;
        }
        trapped
    }

    async fn hold(&self) -> ! {
        self.caught.send_modify(|caught| *caught += 1);
        std::future::pending().await
    }

    async fn serve(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let asked = Asked::of(&path);
        let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else {
            return plain(StatusCode::BAD_REQUEST, &json!({}));
        };
        if self.trapped(asked, Side::Before) {
            self.hold().await;
        }
        if let Some(answer) = self.own_answer(asked, &path, &body) {
            return answer;
        }
        let Ok(mut answer) = self.hand_on(&head, body).await else {
            return plain(StatusCode::BAD_GATEWAY, &json!({ "detail": "the authority is away" }));
        };
        if self.trapped(asked, Side::After) {
            self.hold().await;
        }
        if path == "/dir" {
            self.add_to_directory(&mut answer);
        }
        answer.map(Full::new)
    }

    /// What Debian's Pebble does not have.
    fn add_to_directory(&self, answer: &mut Response<Bytes>) {
        let rules = self.rules.lock().expect("no panic");
        let mut directory: Value = serde_json::from_slice(answer.body()).expect("a directory");
        if rules.renewal_info {
            directory["renewalInfo"] = json!(format!("https://{}/renewal-info/", self.own));
        }
        if let Some(profiles) = &rules.profiles {
            directory["meta"]["profiles"] = profiles.clone();
        }
        *answer.body_mut() = directory.to_string().into();
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }

    fn own_answer(&self, asked: Asked, path: &str, body: &[u8]) -> Option<Response<Full<Bytes>>> {
        let mut rules = self.rules.lock().expect("no panic");
        *rules.seen.entry(asked).or_default() += 1;
        if let Some(status) = rules.broken {
            return Some(plain(status, &json!({ "detail": "out of order" })));
        }
        if rules.dead_for == Some(asked) {
            return Some(plain(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "detail": "dead for this" })));
        }
        match asked {
            Asked::Finalize => drop(rules.finalized.insert(path.to_owned())),
            Asked::NewOrder => {
                let said = payload(body);
                rules.replacing += usize::from(said["replaces"].is_string());
                rules.ordered.push(said);
            }
            _ => {}
        }
        let of_profile = rules.ordered.last().is_some_and(|said| said["profile"].is_string());
        if asked == Asked::NewOrder && rules.refuses_profiles && of_profile {
            let problem = json!({
                "type": "urn:ietf:params:acme:error:invalidProfile",
                "detail": "this profile is not known here",
            });
            return Some(plain(StatusCode::BAD_REQUEST, &problem));
        }
        if asked == Asked::NewOrder && rules.limited {
            let problem = json!({
                "type": "urn:ietf:params:acme:error:rateLimited",
                "detail": "too many certificates already issued for this exact set of names",
            });
            let mut answer = plain(StatusCode::TOO_MANY_REQUESTS, &problem);
            answer.headers_mut().insert(header::RETRY_AFTER, "3600".parse().expect("a header"));
            return Some(answer);
        }
        if asked != Asked::RenewalInfo {
            return None;
        }
        if !rules.asked_about.iter().any(|known| known == path) {
            rules.asked_about.push(path.to_owned());
        }
        // The first certificate was issued by mistake; all others may stay a while.
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let (start, end) = match rules.asked_about.first().is_some_and(|first| first == path) {
            true => (now - 2 * day, now - day),
            false => (now + 30 * day, now + 31 * day),
        };
        let text = |at: SystemTime| {
            let seconds = at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
            pangolin_core::Timestamp(seconds * 1000).to_string()
        };
        let window = json!({ "start": text(start), "end": text(end) });
        Some(plain(
            StatusCode::OK,
            &json!({ "suggestedWindow": window, "explanationURL": "https://why.test/" }),
        ))
    }

    async fn hand_on(&self, head: &http::request::Parts, body: Bytes) -> anyhow::Result<Response<Bytes>> {
        let stream = TcpStream::connect(self.authority).await?;
        let stream = self.connector.connect(ServerName::try_from("localhost")?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(head.method.clone()).uri(head.uri.clone());
        for (name, value) in &head.headers {
            // The host stays the front's: Pebble makes its addresses of it, and they are part of what is signed.
            if name != header::CONNECTION {
                request = request.header(name, value);
            }
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (mut parts, body) = response.into_parts();
        let body = if head.method == Method::HEAD { Bytes::new() } else { body.collect().await?.to_bytes() };
        parts.headers.remove(header::TRANSFER_ENCODING);
        Ok(Response::from_parts(parts, body))
    }
}

/// What a signed request says.
fn payload(body: &[u8]) -> Value {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = request["payload"].as_str().and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
    payload.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn plain(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response
}
