//! `pangolinctl org`.

use clap::Subcommand;
use pangolin_core::Slug;
use pangolin_wire::{CreateOrg, Org, OrgList, UpdateOrg};

use crate::{
    failure::Failure,
    print::{self, cell},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make an organisation
    Create {
        /// Short name: a-z, 0-9 and hyphens
        id: Slug,
        /// Display name
        #[arg(long)]
        name: Option<String>,
    },
    /// List the organisations
    List,
    /// Show an organisation
    Show {
        /// Short name
        id: Slug,
    },
    /// Rename an organisation
    Update {
        /// Short name, which stays
        id: Slug,
        /// New display name
        #[arg(long)]
        name: String,
    },
    /// Remove an organisation that owns nothing any more
    Delete {
        /// Short name
        id: Slug,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { id, name } => {
            session.done(&session.put("/org", &CreateOrg { org_id: id, name }).await?)
        }
        Verb::List => session.show(&session.get("/orgs").await?, |orgs: OrgList| {
            let rows = orgs
                .orgs
                .iter()
                .map(|org| [cell(&org.org_id), cell(&org.name), cell(print::moment(org.created_at))]);
            print::table(["ORG", "NAME", "CREATED"], rows)
        }),
        Verb::Show { id } => session.show(&session.get(&format!("/org/{id}")).await?, |org: Org| {
            print::pairs([
                ("org", org.org_id.to_string()),
                ("name", org.name),
                ("created", print::moment(org.created_at)),
            ])
        }),
        Verb::Update { id, name } => {
            session.done(&session.post(&format!("/org/{id}"), &UpdateOrg { name }).await?)
        }
        Verb::Delete { id } => session.delete(&format!("/org/{id}")).await,
    }
}
