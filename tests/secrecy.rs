//! What nodes keep, log and answer has no private key in it that could be read.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

#[allow(dead_code, reason = "each test file uses its own part of it")]
mod hosts;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hosts::{PATIENCE, back_up, pangolinctl};
use pangolin_chaos::{
    cluster::{Cluster, Options},
    https::Https,
};
use tokio::time::sleep;

/// Name of the certificate whose key is known here.
const HOST: &str = "own.demo.test";

/// How a key could be found among other bytes: as it is, in hexadecimal digits, and in base 64, of which the first and
/// the last digits depend on what stands beside it.
fn forms(key: &[u8]) -> Vec<Vec<u8>> {
    let digits = hex::encode(key);
    let mut forms = vec![key.to_vec(), digits.to_uppercase().into_bytes(), digits.into_bytes()];
    for skipped in 0..3 {
        let whole = (key.len() - skipped) / 3 * 3;
        forms.push(STANDARD_NO_PAD.encode(&key[skipped..skipped + whole]).into_bytes());
    }
    forms
}

fn has(bytes: &[u8], forms: &[Vec<u8>]) -> bool {
    let without_breaks: Vec<u8> = bytes.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect();
    let within = |form: &Vec<u8>| {
        [bytes, &without_breaks].iter().any(|bytes| memchr::memmem::find(bytes, form).is_some())
    };
    forms.iter().any(within)
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

async fn served(cluster: &Cluster, node: usize, certificate: &str) {
    let visitor = Https::trusting(certificate).expect("a client");
    let (at, end) = (cluster.nodes[node].https(), Instant::now() + PATIENCE);
    while let Err(error) = visitor.get(at, HOST, "/", Duration::from_secs(5)).await {
        assert!(Instant::now() < end, "node {node} does not serve it: {error:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_private_key_lies_open_in_files_logs_or_answers() {
    let options = Options { log: Some("trace".into()), ..Options::of_a_test().expect("options") };
    let mut cluster = Cluster::start(options).await.expect("it runs");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).expect("names");
    let certificate = params.self_signed(&key).expect("signed").pem();
    let (chain, key_file) = (cluster.dir().join("own.pem"), cluster.dir().join("own.key"));
    std::fs::write(&chain, &certificate).expect("written");
    std::fs::write(&key_file, key.serialize_pem()).expect("written");
    // PKCS #8 of a key on P-256 (RFC 5915): 36 bytes that are the same in all of them, then the number that is secret.
    let forms = forms(&key.serialized_der()[36..68]);
    assert!(has(&std::fs::read(&key_file).expect("read"), &forms), "it would be found");

    let words = ["--chain", chain.to_str().expect("text"), "--key", key_file.to_str().expect("text")];
    let imported = pangolinctl(&cluster, 0, &[&["cert", "import"], &words[..]].concat());
    assert!(imported.success, "{imported:?}");
    for node in 0..3 {
        served(&cluster, node, &certificate).await;
    }
    back_up(&cluster.nodes[0].client()).await;

    let asked: [&[&str]; 4] =
        [&["cert", "list"], &["cert", "show", HOST], &["cert", "why", HOST], &["events", "--json"]];
    for words in asked {
        let said = pangolinctl(&cluster, 1, words);
        assert!(said.success, "{words:?}: {said:?}");
        assert!(!has(said.stdout.as_bytes(), &forms), "{words:?} shows it");
    }
    let certificates: serde_json::Value =
        cluster.nodes[2].client().get("/certificates").await.expect("answered");
    let answer = certificates.to_string();
    assert!(answer.contains(HOST) && !has(answer.as_bytes(), &forms), "{answer}");
    for node in &mut cluster.nodes {
        node.terminate(PATIENCE).expect("it ends");
        let kept = files(&node.state_dir());
        assert!(kept.len() > 3, "{kept:?}");
        for file in kept.into_iter().chain([node.log()]) {
            let bytes = std::fs::read(&file).expect("read");
            assert!(!bytes.is_empty() || !file.ends_with("log"), "{} is empty", file.display());
            assert!(!has(&bytes, &forms), "{} has the key of a certificate", file.display());
        }
    }
}
