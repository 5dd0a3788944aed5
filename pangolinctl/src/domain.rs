//! `pangolinctl domain`.

use clap::Subcommand;
use pangolin_core::HostName;
use pangolin_wire::{CreateDomain, Domain, DomainList};

use crate::{
    failure::Failure,
    names,
    print::{self, cell},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Add a domain to publish under
    Create {
        /// The domain
        domain: HostName,
    },
    /// List the domains
    List,
    /// Show a domain
    Show {
        /// Id or name
        domain: String,
    },
    /// Remove a domain that no resource uses any more
    Delete {
        /// Id or name
        domain: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { domain } => {
            let path = names::org_path(session, "domain").await?;
            session.done(&session.put(&path, &CreateDomain { base_domain: domain }).await?)
        }
        Verb::List => {
            let path = names::org_path(session, "domains").await?;
            session.show(&session.get(&path).await?, |domains: DomainList| {
                let rows = domains.domains.iter().map(|domain| {
                    [
                        cell(domain.domain_id),
                        cell(&domain.base_domain),
                        cell(print::moment(domain.created_at)),
                    ]
                });
                print::table(["ID", "DOMAIN", "CREATED"], rows)
            })
        }
        Verb::Show { domain } => {
            let id = names::domain(session, &domain).await?;
            session.show(&session.get(&format!("/domain/{id}")).await?, |domain: Domain| {
                print::pairs([
                    ("domain", format!("{} (id {})", domain.base_domain, domain.domain_id)),
                    ("org", domain.org_id.to_string()),
                    ("created", print::moment(domain.created_at)),
                ])
            })
        }
        Verb::Delete { domain } => {
            let id = names::domain(session, &domain).await?;
            session.delete(&format!("/domain/{id}")).await
        }
    }
}
