//! What it costs that a request is relayed: the same site asked through the node that has its tunnel, and through one that
//! has none, in turn.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use pangolin_chaos::{https::Https, prober::VIA_HEADER};
use serde_json::{Value, json};

use crate::{sample::Sample, say, traffic::lab::Lab};

/// Requests that go one way before the other way has its turn.
const TURN: usize = 50;
/// Body of a request whose throughput is measured, in bytes.
const LARGE: usize = 16 << 20;

/// A kept-alive connection of a visitor.
struct Visitor {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
}

impl Visitor {
    async fn connect(https: &Https, at: SocketAddr, host: &str) -> Result<Self> {
        let stream = https.connect(at, host).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its end is seen by the requests on it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, host: host.to_owned() })
    }

    /// Bytes of the answer's body, and what the edge says of its way.
    async fn ask(&mut self, path: &str) -> Result<(usize, String)> {
        self.sender.ready().await?;
        let request = Request::get(path).header(header::HOST, &self.host).body(Empty::new())?;
        let answer = self.sender.send_request(request).await?;
        ensure!(answer.status() == StatusCode::OK, "{}", answer.status());
        let via =
            answer.headers().get(VIA_HEADER).and_then(|via| via.to_str().ok()).unwrap_or_default().to_owned();
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok((length, via))
    }
}

/// Measures on a cluster of three, whose site has one tunnel.
///
/// # Errors
/// The cluster does not come up, or a request takes another way than it should.
pub(super) fn measure(requests: usize, large: usize) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let lab = Lab::start(3, 1).await?;
        let status = lab.settled().await?;
        let carrier = *lab.site_of(&status)?.tunnels.first().context("the site has no tunnel")?;
        let with = lab.cluster.position(&status, carrier)?;
        let without = (with + 1) % lab.cluster.nodes.len();
        let entries = [with, without].map(|position| lab.cluster.nodes[position].https());
        let (https, host) = (lab.https.clone(), lab.host().to_owned());
        let thread =
            lab.outside()?.spawn("visitor", move || visit(&https, entries, &host, requests, large))?;
        let done = tokio::task::spawn_blocking(move || thread.join());
        done.await?.map_err(|_| anyhow::anyhow!("the visitor has panicked"))?
    })
}

fn visit(
    https: &Https,
    entries: [SocketAddr; 2],
    host: &str,
    requests: usize,
    large: usize,
) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let [local, relayed] = entries;
        let mut visitors =
            [Visitor::connect(https, local, host).await?, Visitor::connect(https, relayed, host).await?];
        for (visitor, way) in visitors.iter_mut().zip(["local", "node "]) {
            let (_, via) = visitor.ask("/").await?;
            ensure!(via.starts_with(way), "a request takes {via:?}, not {way:?}");
        }
        let mut micros = [Vec::new(), Vec::new()];
        for _ in 0..requests.div_ceil(TURN) {
            for (visitor, micros) in visitors.iter_mut().zip(&mut micros) {
                for _ in 0..TURN {
                    let began = Instant::now();
                    visitor.ask("/").await?;
                    micros.push(u64::try_from(began.elapsed().as_micros())?);
                }
            }
        }
        let path = format!("/bytes?{LARGE}");
        let mut took = [Duration::ZERO; 2];
        for _ in 0..large {
            for (visitor, took) in visitors.iter_mut().zip(&mut took) {
                let began = Instant::now();
                let (length, _) = visitor.ask(&path).await?;
                *took += began.elapsed();
                ensure!(length == LARGE, "{length} bytes came");
            }
        }
        Ok(told(micros, took, large))
    })
}

fn told(micros: [Vec<u64>; 2], took: [Duration; 2], large: usize) -> Value {
    let [local, relayed] =
        micros.map(|micros| Sample::new(micros, Duration::ZERO, Duration::ZERO, 0).figures());
    let [local_mbit, relayed_mbit] =
        took.map(|took| ((large * LARGE) as f64 * 8.0 / 1e6 / took.as_secs_f64()).round());
    let added = crate::sample::round(relayed.p50_ms - local.p50_ms);
    say(&format!(
        "a request: p50 {} ms local, {} ms relayed ({added} ms added); {local_mbit} Mbit/s local, {relayed_mbit} relayed",
        local.p50_ms, relayed.p50_ms
    ));
    json!({
        "local_p50_ms": local.p50_ms, "relayed_p50_ms": relayed.p50_ms, "added_p50_ms": added,
        "local_p99_ms": local.p99_ms, "relayed_p99_ms": relayed.p99_ms,
        "local_mbit": local_mbit, "relayed_mbit": relayed_mbit,
    })
}
