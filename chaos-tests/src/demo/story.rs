//! How the demo's cluster comes to be.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::{DemoOptions, say};
use crate::{
    cluster::{Backend, Cluster, Options, START_PATIENCE, Timing},
    https::Https,
    ports::{Ports, demo_addresses, own_addresses},
    site::Site,
};

/// Number of nodes.
const NODES: u8 = 3;
/// Tunnels that the connector keeps: to two of the three nodes, so that one has to relay.
const TUNNELS: usize = 2;

/// What the demo has put up.
pub(super) struct Story {
    pub(super) site: Site,
    pub(super) cluster: Cluster,
    pub(super) https: Https,
}

impl Story {
    pub(super) async fn tell(options: &DemoOptions) -> Result<Self> {
        let (addresses, ports) = place(options)?;
        let mut steps = Steps::new(6);
        let options = Options {
            addresses,
            ports,
            zone: "demo.test".to_owned(),
            backend: Backend::Auto,
            log: options.log.clone(),
            timing: Timing::default(),
        };

        steps.begin("the first node makes the cluster");
        let mut cluster = Cluster::prepare(options)?;
        cluster.init().await?;
        for node in 1..cluster.nodes.len() {
            steps.begin(&format!("node {} joins with a token", cluster.nodes[node].name));
            cluster.join(node).await?;
        }
        steps.begin("all three nodes vote");
        cluster.healthy(START_PATIENCE).await?;

        steps.begin("a site with a connector and a backend is made through the API");
        Site::found(&cluster).await?;
        let mut site = Site::publish(&cluster, "lab", "hello", Some(TUNNELS)).await?;
        site.settled(&cluster, START_PATIENCE).await?;

        steps.begin(&format!("{} is served by every node", site.host));
        let https = cluster.https_client().await?;
        for position in 0..cluster.nodes.len() {
            site.served_by(&cluster, &https, position).await?;
        }
        steps.end();
        Ok(Self { site, cluster, https })
    }
}

/// Addresses and ports: the well-known ones for people, free ones for checks and where those are taken.
fn place(options: &DemoOptions) -> Result<(Vec<std::net::IpAddr>, Ports)> {
    let addresses = if options.check { own_addresses(NODES) } else { demo_addresses(NODES) };
    let wanted = match options.base_port {
        Some(base) => Ports::from_base(base),
        None if options.check => return Ok((addresses.clone(), Ports::free(&addresses)?)),
        None => Ports::USUAL,
    };
    let ports = match wanted.taken(&addresses) {
        None => wanted,
        Some(taken) => {
            let free = Ports::free(&addresses)?;
            say(&format!("{taken} is taken: the ports {} to {} are used instead", free.https, free.tunnel));
            free
        }
    };
    Ok((addresses, ports))
}

/// Shows the steps: a line each, with a spinner where somebody watches.
struct Steps {
    total: usize,
    number: usize,
    began: Instant,
    bar: Option<ProgressBar>,
    text: String,
}

impl Steps {
    fn new(total: usize) -> Self {
        let bar = std::io::stdout().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_style(ProgressStyle::default_spinner());
        }
        Self { total, number: 0, began: Instant::now(), bar, text: String::new() }
    }

    fn begin(&mut self, text: &str) {
        self.finish_line();
        self.number += 1;
        self.began = Instant::now();
        self.text = format!("[{}/{}] {text}", self.number, self.total);
        if let Some(bar) = &self.bar {
            bar.set_message(self.text.clone());
        }
    }

    fn finish_line(&mut self) {
        if self.number == 0 {
            return;
        }
        let line = format!("{} ({:.1} s)", self.text, self.began.elapsed().as_secs_f32());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(&line),
        }
    }

    fn end(&mut self) {
        self.finish_line();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
