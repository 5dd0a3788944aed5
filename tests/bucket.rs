//! Copies of backups in a bucket: a store that speaks S3 over TLS, and a cluster that is made again from what lies there.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

#[allow(dead_code, reason = "each test file uses its own part of it")]
mod hosts;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hosts::{PATIENCE, archived, back_up, configured, made_again, org, shown};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use pangolin_node as _;
use pangolin_storage::backup::{BucketConfig, BucketPlace, Copies, Listed};
use rustls::pki_types::PrivateKeyDer;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, time::sleep};
use tokio_rustls::TlsAcceptor;

const BUCKET: &str = "copies";
const KEY_ID: &str = "pangolin";
const SECRET: &str = "not a secret at all";

/// An S3-compatible store on loopback. Objects are files below `dir`.
struct Store {
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Store {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("objects").join(BUCKET)).expect("a bucket");
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), signed.cert.pem()).expect("written");
        std::fs::write(dir.path().join("secret"), format!("{SECRET}\n")).expect("written");
        std::fs::write(dir.path().join("wrong"), "guessed\n").expect("written");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .expect("a key");
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let files = s3s_fs::FileSystem::new(dir.path().join("objects")).expect("a store");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = service.build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), service.clone());
                tokio::spawn(async move {
                    let Ok(connection) = acceptor.accept(connection).await else { return };
                    let server = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is no trouble.
                    let _ = server.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
        Self { address, dir }
    }

    fn config(&self, secret: &str) -> BucketConfig {
        BucketConfig {
            endpoint: format!("https://{}", self.address),
            bucket: BUCKET.to_owned(),
            region: "us-east-1".to_owned(),
            prefix: "lab".to_owned(),
            key_id: KEY_ID.to_owned(),
            secret_file: self.dir.path().join(secret),
            authorities: self.dir.path().join("ca.pem"),
        }
    }

    fn objects(&self) -> PathBuf {
        self.dir.path().join("objects").join(BUCKET)
    }

    /// Uses a place in it as a node does.
    async fn with<T: Send + 'static>(
        &self,
        secret: &str,
        work: impl FnOnce(BucketPlace) -> T + Send + 'static,
    ) -> T {
        let config = self.config(secret);
        let work = move || work(BucketPlace::new(&config, "demo/node-1").expect("a place"));
        tokio::task::spawn_blocking(work).await.expect("done")
    }
}

#[tokio::test]
async fn copies_are_written_listed_and_removed_and_a_wrong_key_is_told() {
    let store = Store::start().await;
    let names = |listed: &[Listed]| listed.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    let (empty, both, left) = store
        .with("secret", move |place| {
            let empty = place.list(&[]).expect("listed");
            place.write("b.pgb", b"no backup").expect("written");
            place.write("b.pgb", b"no backup either").expect("replaced");
            place.write("a.pgb", &vec![7; 3 << 20]).expect("a large one");
            let both = place.list(&[]).expect("listed");
            let known = [Listed { header: Err("known".into()), ..both[0].clone() }];
            let again = place.list(&known).expect("listed");
            assert_eq!(again[0].header, known[0].header, "what is known is not asked for");
            place.remove("a.pgb").expect("removed");
            place.remove("a.pgb").expect("gone already");
            (empty, both, place.list(&[]).expect("listed"))
        })
        .await;
    assert!(empty.is_empty());
    assert_eq!(names(&both), ["a.pgb", "b.pgb"]);
    assert_eq!((both[0].size, both[1].size), (3 << 20, 16));
    assert!(both[1].header.as_ref().expect_err("no backup").contains("begin"));
    assert_eq!(names(&left), ["b.pgb"]);
    let refused = store.with("wrong", |place| place.write("c.pgb", b"x").expect_err("refused")).await;
    let told = refused.to_string();
    assert!(told.contains("s3://copies/lab/demo/node-1/") && told.contains("403"), "{told}");
    assert!(!store.objects().join("lab/demo/node-1/c.pgb").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_alone_makes_the_cluster_again() {
    let store = Store::start().await;
    let config = store.config("secret");
    let section = format!(
        "[backup.s3]\nendpoint = {:?}\nbucket = {BUCKET:?}\nprefix = \"lab\"\nkey_id = {KEY_ID:?}\nsecret_file = {:?}\n\
         ca_file = {:?}\n",
        config.endpoint, config.secret_file, config.authorities
    );
    let (mut cluster, key) = configured(2, |_: &Path, _| section.clone());
    cluster.nodes[0].start_ready().await.expect("it runs");
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    org(&client, "early").await;
    let state = back_up(&client).await;
    org(&client, "late").await;
    let last = archived(&client).await;
    let parts: Vec<PathBuf> = std::fs::read_dir(store.objects().join("lab"))
        .expect("a prefix")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(parts.len(), 1, "{parts:?}");
    let copies = parts[0].join("node-1");
    // They are written right behind the first copies.
    let end = Instant::now() + PATIENCE;
    while ![&state.name, &last].iter().all(|name| copies.join(name).exists()) {
        assert!(Instant::now() < end, "{} or {last} is not copied", state.name);
        sleep(Duration::from_millis(50)).await;
    }
    cluster.nodes[0].kill();
    std::fs::remove_dir_all(cluster.nodes[0].state_dir()).expect("lost");

    let (done, said) = made_again(&mut cluster, &copies, &key).await;
    assert!(done, "{said}");
    for id in ["early", "late"] {
        shown(&cluster, 1, id).await;
    }
}
