//! `pangolinctl user`.

use clap::Subcommand;
use pangolin_wire::{CreateUser, SetMembership, UpdateUser, User, UserList};

use crate::{
    failure::Failure,
    names,
    print::{self, cell, yes},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a user
    Create {
        /// E-mail address
        email: String,
        /// Display name; the address if not given
        #[arg(long)]
        name: Option<String>,
        /// May do everything
        #[arg(long)]
        administrator: bool,
    },
    /// List the users, or with --org its members
    List,
    /// Show a user
    Show {
        /// Id or e-mail address
        user: String,
    },
    /// Change a user
    Update {
        /// Id or e-mail address
        user: String,
        /// New display name
        #[arg(long)]
        name: Option<String>,
        /// May do everything, or not
        #[arg(long, value_name = "true|false")]
        administrator: Option<bool>,
    },
    /// Make a user a member of an organisation, with exactly these roles
    Assign {
        /// Id or e-mail address
        user: String,
        /// Id or name of a role; may be given several times
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<String>,
    },
    /// End a user's membership in an organisation
    Unassign {
        /// Id or e-mail address
        user: String,
    },
    /// Remove a user
    Delete {
        /// Id or e-mail address
        user: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { email, name, administrator } => {
            let name = name.unwrap_or_else(|| email.clone());
            session.done(&session.put("/user", &CreateUser { email, name, administrator }).await?)
        }
        Verb::List => {
            let path = session.org.as_ref().map_or("/users".to_owned(), |org| format!("/org/{org}/users"));
            session.show(&session.get(&path).await?, |users: UserList| {
                let rows = users.users.iter().map(|user| {
                    let orgs: Vec<_> = user.memberships.iter().map(|m| &m.org_id).collect();
                    [
                        cell(user.user_id),
                        cell(&user.email),
                        cell(&user.name),
                        cell(yes(user.administrator)),
                        cell(print::list(&orgs)),
                    ]
                });
                print::table(["ID", "E-MAIL", "NAME", "ADMINISTRATOR", "ORGS"], rows)
            })
        }
        Verb::Show { user } => {
            let id = names::user(session, &user).await?;
            session.show(&session.get(&format!("/user/{id}")).await?, |user: User| {
                let of = |m: &pangolin_wire::Membership| {
                    format!("{} (roles {})", m.org_id, print::list(&m.role_ids))
                };
                print::pairs([
                    ("user", format!("{} (id {})", user.email, user.user_id)),
                    ("name", user.name),
                    ("administrator", yes(user.administrator).to_owned()),
                    ("member of", print::list(&user.memberships.iter().map(of).collect::<Vec<_>>())),
                    ("created", print::moment(user.created_at)),
                ])
            })
        }
        Verb::Update { user, name, administrator } => {
            let id = names::user(session, &user).await?;
            let update = UpdateUser { name, administrator };
            session.done(&session.post(&format!("/user/{id}"), &update).await?)
        }
        Verb::Assign { user, roles } => {
            let path = member_path(session, &user).await?;
            let mut role_ids = Vec::with_capacity(roles.len());
            for role in roles {
                role_ids.push(names::role(session, &role).await?);
            }
            session.done(&session.post(&path, &SetMembership { role_ids }).await?)
        }
        Verb::Unassign { user } => session.delete(&member_path(session, &user).await?).await,
        Verb::Delete { user } => {
            let id = names::user(session, &user).await?;
            session.delete(&format!("/user/{id}")).await
        }
    }
}

async fn member_path(session: &Session, user: &str) -> Result<String, Failure> {
    let id = names::user(session, user).await?;
    names::org_path(session, &format!("user/{id}")).await
}
