//! `pangolinctl resource`.

use clap::Subcommand;
use pangolin_core::{HostName, Slug};
use pangolin_wire::{CreateResource, Resource, ResourceList, SetBalancing, UpdateResource};

use crate::{
    failure::Failure,
    names,
    print::{self, cell, list, or_dash, yes},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Publish a name
    Create {
        /// Full name; it belongs to the organisation's nearest domain above it
        host: HostName,
        /// Display name; the host if not given
        #[arg(long)]
        name: Option<String>,
        /// Short name; made from the name if not given
        #[arg(long)]
        nice_id: Option<Slug>,
    },
    /// List the resources
    List,
    /// Show a resource
    Show {
        /// Id, host, short name or ORG/SHORT-NAME
        resource: String,
    },
    /// Change a resource
    Update {
        /// Id, host, short name or ORG/SHORT-NAME
        resource: String,
        /// New display name
        #[arg(long)]
        name: Option<String>,
        /// Published, or not
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
    },
    /// Say which of its targets that are equally well gets the next request, connection or UDP flow
    Balance {
        /// Id, host, short name or ORG/SHORT-NAME
        resource: String,
        /// In turn by weight, the one with the least under way, the same one for each browser, or the same one for
        /// each client address
        #[arg(value_parser = ["round-robin", "least-connections", "cookie", "address"])]
        balancing: String,
    },
    /// Remove a resource with its targets
    Delete {
        /// Id, host, short name or ORG/SHORT-NAME
        resource: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { host, name, nice_id } => {
            let path = names::org_path(session, "resource").await?;
            let full_domain = Some(host);
            let request =
                CreateResource { name, nice_id, full_domain, domain_id: None, subdomain: None, http: None };
            session.done(&session.put(&path, &request).await?)
        }
        Verb::List => {
            let path = names::org_path(session, "resources").await?;
            session.show(&session.get(&path).await?, |resources: ResourceList| {
                let rows = resources.resources.iter().map(|resource| {
                    [
                        cell(resource.resource_id),
                        cell(&resource.full_domain),
                        cell(&resource.nice_id),
                        cell(&resource.name),
                        cell(yes(resource.enabled)),
                        cell(resource.target_ids.len()),
                    ]
                });
                print::table(["ID", "HOST", "RESOURCE", "NAME", "ENABLED", "TARGETS"], rows)
            })
        }
        Verb::Show { resource } => {
            let id = names::resource(session, &resource).await?;
            session.show(&session.get(&format!("/resource/{id}")).await?, |resource: Resource| {
                print::pairs([
                    (
                        "resource",
                        format!("{}/{} (id {})", resource.org_id, resource.nice_id, resource.resource_id),
                    ),
                    ("name", resource.name),
                    ("host", resource.full_domain.to_string()),
                    ("domain", resource.domain_id.to_string()),
                    ("subdomain", or_dash(resource.subdomain)),
                    ("enabled", yes(resource.enabled).to_owned()),
                    ("targets", list(&resource.target_ids)),
                    ("DNS answers", resource.answers.to_string()),
                    ("balancing", resource.balancing.to_string()),
                    ("ports", list(&resource.ports)),
                    ("created", print::moment(resource.created_at)),
                ])
            })
        }
        Verb::Update { resource, name, enabled } => {
            let id = names::resource(session, &resource).await?;
            let update = UpdateResource { name, enabled };
            session.done(&session.post(&format!("/resource/{id}"), &update).await?)
        }
        Verb::Balance { resource, balancing } => {
            let id = names::resource(session, &resource).await?;
            let balancing = balancing.parse().map_err(Failure::usage)?;
            let request = SetBalancing { balancing };
            session.done(&session.post(&format!("/resource/{id}/balancing"), &request).await?)
        }
        Verb::Delete { resource } => {
            let id = names::resource(session, &resource).await?;
            session.delete(&format!("/resource/{id}")).await
        }
    }
}
