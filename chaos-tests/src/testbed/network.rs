//! The network of a test bed: a namespace per host, and a bridge in one of its own that all of them are plugged into.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use super::filter::{self, Rule};
use crate::{
    host::Network,
    process,
    wire::{UNDERWAY_MAX, Wire},
};

/// How long `ip` and `nft` may take, on a machine that is busy.
const TOOL_PATIENCE: Duration = Duration::from_secs(20);
/// Where Debian keeps them, which is not in everybody's `PATH`.
const TOOL_PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];
/// The first three numbers of every address. The network is seen by nobody outside.
const PREFIX: [u8; 3] = [10, 77, 0];

/// A host in the network.
#[derive(Clone, Debug)]
pub struct Plug {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its namespace.
    pub network: Network,
}

/// The network.
#[derive(Debug)]
pub struct Fabric {
    bridge: Network,
    /// The hosts, in the order in which they were plugged in.
    pub plugs: Vec<Plug>,
}

impl Fabric {
    /// A network with a host for every name. All of it is gone with its processes and handles.
    ///
    /// # Errors
    /// This process is not root, or `ip` is missing or refuses.
    pub fn new(names: &[String]) -> Result<Self> {
        let bridge = Network::new()?;
        let mut plugs = Vec::new();
        let mut batch = "link set lo up\nlink add br0 type bridge forward_delay 0 mcast_snooping 0\n\
                         link set br0 addrgenmode none up\n"
            .to_owned();
        for (number, name) in (0u8..).zip(names) {
            let plug = Plug {
                name: name.clone(),
                address: address(number),
                network: Network::new().with_context(|| format!("a host for {name}"))?,
            };
            // Interfaces are named by number: names of hosts may be longer than those may be.
            writeln!(
                batch,
                "link add p{number} type veth peer name eth0 netns {path}\n\
                 link set p{number} addrgenmode none master br0 up",
                path = plug.network.path().display(),
            )?;
            plugs.push(plug);
        }
        ip(&bridge, &batch).context("the bridge")?;
        for plug in &plugs {
            let batch = format!(
                "link set lo up\nlink set eth0 addrgenmode none\naddr add {}/24 dev eth0\nlink set eth0 up\n",
                plug.address
            );
            ip(&plug.network, &batch).with_context(|| format!("the host {}", plug.name))?;
        }
        Ok(Self { bridge, plugs })
    }

    /// Drops what the rules say, all from the same moment on.
    ///
    /// # Errors
    /// `nft` is missing or refuses.
    pub fn block(&self, table: &str, rules: &[Rule]) -> Result<()> {
        self.nft(&filter::install(table, rules))
    }

    /// Lets it pass again.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn unblock(&self, table: &str) -> Result<()> {
        self.nft(&filter::remove(table))
    }

    /// How many packets the rules of a table have dropped so far.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn dropped(&self, table: &str) -> Result<u64> {
        let mut command = tool("nft");
        command.args(["-j", "list", "table", "bridge", table]);
        self.bridge.enter(&mut command);
        let listed = process::run(command, "", TOOL_PATIENCE)?.ok("nft list")?;
        filter::dropped(&listed.stdout)
    }

    fn nft(&self, batch: &str) -> Result<()> {
        let mut command = tool("nft");
        command.args(["-f", "-"]);
        self.bridge.enter(&mut command);
        process::run(command, batch, TOOL_PATIENCE)?.ok("nft").map(|_| ())
    }

    /// Takes the cable of a host out of the bridge and puts a wire in between.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn wire(&self, plug: usize) -> Result<Wire> {
        let (cable, end) = (format!("p{plug}"), format!("w{plug}"));
        ip(&self.bridge, &format!("link set {cable} nomaster\n"))?;
        let wire = Wire::lay(&self.bridge, &cable, &end);
        let wire = wire.and_then(|wire| {
            // Its queue holds what the wire may hold: nothing is lost but what the wire is told to lose.
            ip(
                &self.bridge,
                &format!("link set {end} txqueuelen {UNDERWAY_MAX} addrgenmode none master br0 up\n"),
            )?;
            Ok(wire)
        });
        if wire.is_err() {
            self.unwire(plug)?;
        }
        wire
    }

    /// Puts the cable of a host back into the bridge, after its wire is gone.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn unwire(&self, plug: usize) -> Result<()> {
        ip(&self.bridge, &format!("link set p{plug} master br0\n"))
    }

    /// The host of a name.
    ///
    /// # Errors
    /// There is none.
    pub fn plug(&self, name: &str) -> Result<&Plug> {
        self.plugs.iter().find(|plug| plug.name == name).with_context(|| format!("no host is named {name}"))
    }
}

fn address(number: u8) -> IpAddr {
    let [a, b, c] = PREFIX;
    Ipv4Addr::new(a, b, c, 11 + number).into()
}

/// A program of the system, also where its folder is not searched.
#[must_use]
pub fn tool(name: &str) -> Command {
    let place = TOOL_PLACES.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    Command::new(place.unwrap_or_else(|| name.into()))
}

/// What is missing on this system to make a fabric; none if nothing is.
#[must_use]
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for (name, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        if !TOOL_PLACES.iter().any(|folder| Path::new(folder).join(name).is_file()) {
            return Some(format!("{name} is not installed (Debian: apt-get install {package})"));
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun is missing (modprobe tun)".to_owned());
    }
    Network::new().err().map(|error| format!("{error:#}"))
}

fn ip(network: &Network, batch: &str) -> Result<()> {
    let mut command = tool("ip");
    command.args(["-batch", "-"]);
    network.enter(&mut command);
    process::run(command, batch, TOOL_PATIENCE)?.ok("ip").map(|_| ())
}
