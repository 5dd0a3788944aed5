//! `pangolinctl role`.

use clap::Subcommand;
use pangolin_wire::{CreateRole, Role, RoleList};

use crate::{
    failure::Failure,
    names,
    print::{self, cell, yes},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a role
    Create {
        /// Name
        name: String,
    },
    /// List the roles
    List,
    /// Show a role
    Show {
        /// Id or name
        role: String,
    },
    /// Remove a role, also from those who hold it
    Delete {
        /// Id or name
        role: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { name } => {
            let path = names::org_path(session, "role").await?;
            session.done(&session.put(&path, &CreateRole { name }).await?)
        }
        Verb::List => {
            let path = names::org_path(session, "roles").await?;
            session.show(&session.get(&path).await?, |roles: RoleList| {
                let rows = roles
                    .roles
                    .iter()
                    .map(|role| [cell(role.role_id), cell(&role.name), cell(yes(role.is_admin))]);
                print::table(["ID", "ROLE", "ADMINISTRATORS"], rows)
            })
        }
        Verb::Show { role } => {
            let id = names::role(session, &role).await?;
            session.show(&session.get(&format!("/role/{id}")).await?, |role: Role| {
                print::pairs([
                    ("role", format!("{} (id {})", role.name, role.role_id)),
                    ("org", role.org_id.to_string()),
                    ("administrators", yes(role.is_admin).to_owned()),
                ])
            })
        }
        Verb::Delete { role } => {
            let id = names::role(session, &role).await?;
            session.delete(&format!("/role/{id}")).await
        }
    }
}
