//! A site: a backend and the connector in front of it, published under a name.

use std::{
    fs::OpenOptions,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pangolin_core::SiteId;
use pangolin_wire::{
    CreateDomain, CreateOrg, CreateResource, CreateSite, CreateTarget, CreatedSite, Domain, Org, Resource,
    SiteStatus, Target,
};

use crate::{cluster::Cluster, host::Host, https::Https, prober, process::Process};

/// The organisation that owns everything here.
pub const ORG: &str = "demo";
/// How long a step may take.
const STEP_PATIENCE: Duration = Duration::from_secs(30);
/// How often a waiting call looks again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A site with a published backend.
#[derive(Debug)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// The name under which its backend is published.
    pub host: String,
    /// How many tunnels its connector keeps; none = to every node.
    pub tunnels: Option<usize>,
    backend: Process,
    connector: Option<Process>,
    connector_command: Vec<String>,
    connector_program: PathBuf,
    connector_log: PathBuf,
    place: Host,
}

impl Site {
    /// Makes organisation and domain, which every site of a cluster shares.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn found(cluster: &Cluster) -> Result<()> {
        let client = cluster.any_node()?.client().with_deadline(STEP_PATIENCE);
        let org = CreateOrg { org_id: ORG.parse()?, name: Some("Demo".to_owned()) };
        let _: Org = client.put("/org", &org).await?;
        let domain = CreateDomain { base_domain: cluster.options.zone.parse()? };
        let _: Domain = client.put(&format!("/org/{ORG}/domain"), &domain).await?;
        Ok(())
    }

    /// Makes the site `name` with one backend, published as `LABEL.ZONE`, and starts both programs.
    ///
    /// # Errors
    /// The API refuses, or a program does not come up.
    pub async fn publish(cluster: &Cluster, name: &str, label: &str, tunnels: Option<usize>) -> Result<Self> {
        Self::publish_on(cluster, name, label, tunnels, Host::default()).await
    }

    /// The same, with both programs on a host of their own.
    ///
    /// # Errors
    /// The API refuses, or a program does not come up.
    pub async fn publish_on(
        cluster: &Cluster,
        name: &str,
        label: &str,
        tunnels: Option<usize>,
        host: Host,
    ) -> Result<Self> {
        let client = cluster.any_node()?.client().with_deadline(STEP_PATIENCE);
        let (backend, at) = start_backend(cluster, label, &host).await?;
        let site =
            CreateSite { name: name.to_owned(), kind: None, nice_id: None, newt_id: None, secret: None };
        let created: CreatedSite = client.put(&format!("/org/{ORG}/site"), &site).await?;
        let full_domain = format!("{label}.{}", cluster.options.zone);
        let resource = CreateResource {
            name: Some(label.to_owned()),
            nice_id: None,
            full_domain: Some(full_domain.parse()?),
            domain_id: None,
            subdomain: None,
            http: None,
        };
        let resource: Resource = client.put(&format!("/org/{ORG}/resource"), &resource).await?;
        let target = CreateTarget {
            site_id: created.site.site_id,
            ip: at.ip().to_string(),
            port: at.port(),
            method: None,
            health_check: None,
        };
        let _: Target = client.put(&format!("/resource/{}/target", resource.resource_id), &target).await?;
        cluster.authority().await?;
        let mut site = Self {
            id: created.site.site_id,
            host: full_domain,
            tunnels,
            backend,
            connector: None,
            connector_command: connector_arguments(cluster, &created, tunnels)?,
            connector_program: cluster.programs.connector.clone(),
            connector_log: cluster.dir().join(format!("connector-{name}.log")),
            place: host,
        };
        site.start_connector()?;
        Ok(site)
    }

    /// Starts the connector.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_connector(&mut self) -> Result<()> {
        let mut command = Command::new(&self.connector_program);
        command.args(&self.connector_command);
        self.place.place(&mut command);
        self.connector = Some(Process::spawn("connector", command, &self.connector_log)?);
        Ok(())
    }

    /// The connector's process; none after [`Self::kill_connector`].
    pub fn connector(&mut self) -> Option<&mut Process> {
        self.connector.as_mut()
    }

    /// `kill -9` of the connector.
    pub fn kill_connector(&mut self) {
        self.connector = None;
    }

    /// The backend's process.
    pub fn backend(&mut self) -> &mut Process {
        &mut self.backend
    }

    /// Where the connector logs.
    #[must_use]
    pub fn connector_log(&self) -> &PathBuf {
        &self.connector_log
    }

    /// Waits until the site has exactly the tunnels that it shall have.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn settled(&mut self, cluster: &Cluster, patience: Duration) -> Result<SiteStatus> {
        let wanted = self.tunnels.unwrap_or(cluster.nodes.len()).min(cluster.nodes.len());
        let until = Instant::now() + patience;
        loop {
            let status = cluster.status().await;
            let site = status.as_ref().ok().and_then(|s| s.sites.iter().find(|site| site.site_id == self.id));
            if let Some(site) = site.filter(|site| site.tunnels.len() == wanted && site.home.is_some()) {
                return Ok(site.clone());
            }
            let connector = self.connector.as_mut().context("the connector does not run")?;
            if let Some(status) = connector.exit_status() {
                bail!("the connector has ended ({status})\n{}", connector.tail());
            }
            if Instant::now() >= until {
                bail!("the site has not {wanted} tunnels after {patience:?}: {site:?}\n{}", connector.tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the backend answers through the node at `position`.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn served_by(&self, cluster: &Cluster, https: &Https, position: usize) -> Result<()> {
        let node = &cluster.nodes[position];
        let until = Instant::now() + STEP_PATIENCE;
        loop {
            match prober::probe(https, node.https(), &self.host).await.result {
                Ok(_) => return Ok(()),
                Err(problem) => {
                    let late = Instant::now() >= until;
                    ensure!(
                        !late,
                        "{} does not serve {} after {STEP_PATIENCE:?}: {problem}",
                        node.name,
                        self.host
                    );
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Starts a sample backend on a free port, and reads from its log where it listens.
async fn start_backend(cluster: &Cluster, name: &str, host: &Host) -> Result<(Process, SocketAddr)> {
    let log = cluster.dir().join(format!("backend-{name}.log"));
    let mut command = Command::new(&cluster.programs.chaos);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string();
    command.args(["backend", "--listen", &listen, "--name", name]);
    host.place(&mut command);
    let mut process = Process::spawn("backend", command, &log)?;
    let until = Instant::now() + STEP_PATIENCE;
    loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if let Some(at) = text.lines().find_map(|line| line.strip_prefix("listening on ")) {
            return Ok((process, at.parse()?));
        }
        let late = Instant::now() >= until || process.exit_status().is_some();
        ensure!(!late, "the backend does not come up\n{}", process.tail());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the connector is told: its credentials by file, and every node by address, so that it needs no DNS.
fn connector_arguments(
    cluster: &Cluster,
    created: &CreatedSite,
    tunnels: Option<usize>,
) -> Result<Vec<String>> {
    let secret = cluster.dir().join(format!("secret-{}", created.site.nice_id));
    // The connector refuses a secret that others can read.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret)?;
    file.write_all(created.secret.as_deref().context("the site's secret is not shown")?.as_bytes())?;
    let endpoints: Vec<String> =
        cluster.nodes.iter().map(|node| format!("https://{}", node.https())).collect();
    let mut arguments = vec![
        "--id".to_owned(),
        created.site.newt_id.clone(),
        "--secret-file".to_owned(),
        secret.display().to_string(),
        "--endpoint".to_owned(),
        endpoints.join(","),
        "--server-name".to_owned(),
        format!("control.{}", cluster.options.zone),
        "--ca-file".to_owned(),
        cluster.ca_file().display().to_string(),
    ];
    if let Some(tunnels) = tunnels {
        arguments.extend(["--tunnels".to_owned(), tunnels.to_string()]);
    }
    Ok(arguments)
}
