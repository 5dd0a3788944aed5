//! Users, and their membership in organisations.

use pangolin_core::{CatalogChange, Object, Slug, UserId, record};
use pangolin_wire::{CreateUser, Membership, SetMembership, UpdateUser, User, UserList};

use super::Routes;
use crate::{
    answer::Answer,
    call::{Call, Changed},
    failure::ApiFailure,
};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/user", create);
    routes.get("/users", list);
    routes.get("/user/{userId}", show);
    routes.post("/user/{userId}", update);
    routes.delete("/user/{userId}", remove);
    routes.get("/org/{orgId}/users", members);
    routes.post("/org/{orgId}/user/{userId}", assign);
    routes.delete("/org/{orgId}/user/{userId}", unassign);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let CreateUser { email, name, administrator } = call.body()?;
    let changed = call.change(CatalogChange::UserCreated { id: None, email, name, administrator }).await?;
    let id = changed.made(|object| match object {
        Object::User(id) => Some(*id),
        _ => None,
    })?;
    let user = render(call.view_of(&changed).user(id)?);
    Answer::created(changed.revision, format!("user {} created with id {id}", user.email), &user)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (users, pagination) = call.page(call.state.users().values().map(render))?;
    Answer::ok(call.state.revision(), "users", &UserList { users, pagination })
}

/// The members of an organisation. Of each only the membership there is shown: the others are not its business.
async fn members(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let members = call.state.users().values().filter(|user| user.memberships.contains_key(&org));
    let members = members.map(|user| {
        let mut user = render(user);
        user.memberships.retain(|membership| membership.org_id == org);
        user
    });
    let (users, pagination) = call.page(members)?;
    Answer::ok(call.state.revision(), format!("users of org {org}"), &UserList { users, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let id = call.parameter("userId")?;
    Answer::ok(call.state.revision(), format!("user {id}"), &render(call.view().user(id)?))
}

async fn update(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (id, UpdateUser { name, administrator }) = (call.parameter("userId")?, call.body()?);
    if name.is_none() && administrator.is_none() {
        return Err(ApiFailure::invalid("nothing is to be changed: give name or administrator"));
    }
    let user = call.view().user(id)?;
    let (name, administrator) =
        (name.unwrap_or_else(|| user.name.clone()), administrator.unwrap_or(user.administrator));
    let changed = call.change(CatalogChange::UserChanged { id, name, administrator }).await?;
    shown(&call, &changed, id, "updated")
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let id: UserId = call.parameter("userId")?;
    let changed = call.change(CatalogChange::UserRemoved(id)).await?;
    Ok(Answer::done(changed.revision, format!("user {id} deleted")))
}

async fn assign(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (org, user) = (call.parameter::<Slug>("orgId")?, call.parameter("userId")?);
    let SetMembership { role_ids } = call.body()?;
    let roles = Some(role_ids);
    let changed = call.change(CatalogChange::MembershipSet { user, org, roles }).await?;
    shown(&call, &changed, user, "updated")
}

async fn unassign(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (org, user): (Slug, UserId) = (call.parameter("orgId")?, call.parameter("userId")?);
    let message = format!("user {user} is no member of org {org} any more");
    let changed = call.change(CatalogChange::MembershipSet { user, org, roles: None }).await?;
    Ok(Answer::done(changed.revision, message))
}

fn shown(call: &Call, changed: &Changed, id: UserId, done: &str) -> Result<Answer, ApiFailure> {
    let user = render(call.view_of(changed).user(id)?);
    Answer::ok(changed.revision, format!("user {id} {done}"), &user)
}

fn render(user: &record::User) -> User {
    let memberships = user.memberships.iter();
    let memberships = memberships
        .map(|(org, roles)| Membership { org_id: org.clone(), role_ids: roles.iter().copied().collect() });
    User {
        user_id: user.id,
        email: user.email.clone(),
        name: user.name.clone(),
        administrator: user.administrator,
        memberships: memberships.collect(),
        created_at: user.created_at.into(),
    }
}
