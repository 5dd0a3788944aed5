//! `pangolinctl site`.

use clap::Subcommand;
use pangolin_core::Slug;
use pangolin_wire::{
    Answer, ChangeSiteSecret, CreateSite, CreatedSite, SetLocal, SetSiteRegion, Site, SiteList, UpdateSite,
    random_id, random_secret,
};

use crate::{
    failure::Failure,
    names,
    print::{self, cell, list, or_dash, yes},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a site, and print what its connector needs
    Create {
        /// Display name
        name: String,
        /// Short name; made from the name if not given
        #[arg(long)]
        nice_id: Option<Slug>,
    },
    /// List the sites
    List,
    /// Show a site
    Show {
        /// Id, short name or ORG/SHORT-NAME
        site: String,
    },
    /// Change a site
    Update {
        /// Id, short name or ORG/SHORT-NAME
        site: String,
        /// New display name
        #[arg(long)]
        name: Option<String>,
        /// In use, or not: a site that is not gets no tunnel
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
    },
    /// Let nodes reach the targets of a site by themselves, without a connector; needs the right to administer the
    /// cluster, because what a node reaches may be its own loopback
    #[command(group = clap::ArgGroup::new("who").required(true).args(["nodes", "every_node", "off"]))]
    Local {
        /// Id, short name or ORG/SHORT-NAME
        site: String,
        /// This node does (may be repeated); others ask it
        #[arg(long = "node", value_name = "NODE")]
        nodes: Vec<String>,
        /// Every node does
        #[arg(long)]
        every_node: bool,
        /// Its connector does again
        #[arg(long)]
        off: bool,
    },
    /// Say in which region a site lies: its tunnel then ends at nodes of that region (`node.region`) first
    #[command(group = clap::ArgGroup::new("where").required(true).args(["region", "none"]))]
    Region {
        /// Id, short name or ORG/SHORT-NAME
        site: String,
        /// The region, as nodes name theirs
        region: Option<Slug>,
        /// In none
        #[arg(long)]
        none: bool,
    },
    /// Give a site's connector a new secret; the old one is worthless at once
    Secret {
        /// Id, short name or ORG/SHORT-NAME
        site: String,
    },
    /// Remove a site that no target uses any more
    Delete {
        /// Id, short name or ORG/SHORT-NAME
        site: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { name, nice_id } => {
            // The credentials are made here, so that a repeat after an unknown outcome still knows them.
            let (newt_id, secret) = (Some(random_id()), Some(random_secret()));
            let request = CreateSite { name, kind: None, nice_id, newt_id, secret };
            let path = names::org_path(session, "site").await?;
            credentials(session, &session.put(&path, &request).await?)
        }
        Verb::List => {
            let path = names::org_path(session, "sites").await?;
            session.show(&session.get(&path).await?, |sites: SiteList| {
                let rows = sites.sites.iter().map(|site| {
                    [
                        cell(site.site_id),
                        cell(&site.nice_id),
                        cell(&site.name),
                        cell(yes(site.enabled)),
                        cell(site.address),
                        cell(or_dash(site.connector.as_ref().map(|connector| &connector.version))),
                        cell(or_dash(site.home)),
                    ]
                });
                print::table(["ID", "SITE", "NAME", "ENABLED", "ADDRESS", "CONNECTOR", "HOME"], rows)
            })
        }
        Verb::Show { site } => {
            let id = names::site(session, &site).await?;
            session.show(&session.get(&format!("/site/{id}")).await?, |site: Site| show(&site))
        }
        Verb::Update { site, name, enabled } => {
            let id = names::site(session, &site).await?;
            session.done(&session.post(&format!("/site/{id}"), &UpdateSite { name, enabled }).await?)
        }
        Verb::Local { site, nodes, every_node: _, off } => {
            let id = names::site(session, &site).await?;
            let mut ids = Vec::new();
            for node in &nodes {
                ids.push(names::node(session, node).await?);
            }
            let request = SetLocal { nodes: (!off).then_some(ids) };
            session.done(&session.post(&format!("/site/{id}/local"), &request).await?)
        }
        Verb::Region { site, region, none: _ } => {
            let id = names::site(session, &site).await?;
            session.done(&session.post(&format!("/site/{id}/region"), &SetSiteRegion { region }).await?)
        }
        Verb::Secret { site } => {
            let id = names::site(session, &site).await?;
            let request = ChangeSiteSecret { secret: Some(random_secret()) };
            credentials(session, &session.post(&format!("/site/{id}/secret"), &request).await?)
        }
        Verb::Delete { site } => {
            let id = names::site(session, &site).await?;
            session.delete(&format!("/site/{id}")).await
        }
    }
}

fn show(site: &Site) -> String {
    let connector = site.connector.as_ref().map_or_else(
        || "never seen".to_owned(),
        |connector| {
            let homes = if connector.multi_homed { "tunnels to several nodes" } else { "one tunnel" };
            format!("{}, {homes}, since {}", connector.version, print::moment(connector.since))
        },
    );
    print::pairs([
        ("site", format!("{}/{} (id {})", site.org_id, site.nice_id, site.site_id)),
        ("name", site.name.clone()),
        ("enabled", yes(site.enabled).to_owned()),
        ("address", site.address.to_string()),
        ("connector id", site.newt_id.clone()),
        ("connector", connector),
        ("home", or_dash(site.home.map(|node| format!("node {node}")))),
        ("standbys", list(&site.standbys)),
        ("region", or_dash(site.region.as_ref())),
        ("reached by", reached_by(site)),
        ("created", print::moment(site.created_at)),
    ])
}

fn reached_by(site: &Site) -> String {
    match site.local.as_deref() {
        None => "its connector".to_owned(),
        Some([]) => "every node itself".to_owned(),
        Some([node]) => format!("node {node} itself"),
        Some(nodes) => format!("nodes {} themselves", list(nodes)),
    }
}

/// Prints what a connector needs.
fn credentials(session: &Session, answer: &Answer) -> Result<(), Failure> {
    session.show(answer, |created: CreatedSite| {
        let CreatedSite { site, secret, endpoint } = created;
        let secret = secret.unwrap_or_else(|| "SECRET".to_owned());
        let facts = print::pairs([
            ("site", format!("{}/{} (id {})", site.org_id, site.nice_id, site.site_id)),
            ("address", site.address.to_string()),
            ("id", site.newt_id.clone()),
            ("secret", format!("{secret}   (shown this once)")),
            ("endpoint", endpoint.clone()),
        ]);
        let file = format!("{}.secret", site.nice_id);
        format!(
            "{facts}\n\nRun this in the private network:\n\n  (umask 077; printf %s '{secret}' > {file})\n  \
             pangolin-connector --id {} --secret-file {file} --endpoint {endpoint}\n",
            site.newt_id
        )
    })
}
