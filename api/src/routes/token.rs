//! Join tokens.

use std::{cmp::Reverse, time::Duration};

use pangolin_core::{Body, TokenId, record, record::NodeRole};
use pangolin_wire::{CreateToken, TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_MAX, Token, TokenList};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure, service::NewToken};

/// Shortest life of a join token, in seconds: less is over before it is typed.
const TOKEN_LIFETIME_MIN: u64 = 10;

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/cluster/token", create);
    routes.get("/cluster/tokens", list);
    routes.delete("/cluster/token/{tokenId}", revoke);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let CreateToken { role, lifetime_seconds } = call.body()?;
    let (role, lifetime) = (role.unwrap_or(NodeRole::Data), lifetime(lifetime_seconds)?);
    make(&call, NewToken { role, lifetime, replaces: None }).await
}

/// How long a token is to be good for.
pub(super) fn lifetime(seconds: Option<u64>) -> Result<Duration, ApiFailure> {
    let seconds = seconds.unwrap_or(TOKEN_LIFETIME_DEFAULT);
    if !(TOKEN_LIFETIME_MIN..=TOKEN_LIFETIME_MAX).contains(&seconds) {
        return Err(ApiFailure::invalid(format!(
            "lifetimeSeconds lies between {TOKEN_LIFETIME_MIN} and {TOKEN_LIFETIME_MAX}"
        )));
    }
    Ok(Duration::from_secs(seconds))
}

/// Has the node make a token.
pub(super) async fn make(call: &Call, wanted: NewToken) -> Result<Answer, ApiFailure> {
    let created = call.app.node.create_token(wanted, call.cause(), call.request()).await?;
    let message = format!("join token {} created", created.id);
    Answer::created(call.app.cluster.state().revision(), message, &created)
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let mut tokens: Vec<&record::JoinToken> = call.state.tokens().values().collect();
    tokens.sort_by_key(|token| Reverse(token.created_at));
    let (tokens, pagination) = call.page(tokens.into_iter().map(render))?;
    Answer::ok(call.state.revision(), "join tokens", &TokenList { tokens, pagination })
}

async fn revoke(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let id: TokenId = call.parameter("tokenId")?;
    let changed = call.propose(Body::TokenRevoked(id)).await?;
    Ok(Answer::done(changed.revision, format!("join token {id} revoked")))
}

fn render(token: &record::JoinToken) -> Token {
    Token {
        token_id: token.id,
        role: token.role,
        replaces: token.replaces,
        created_at: token.created_at.into(),
        expires_at: token.expires_at.into(),
        used_by: token.used.map(|(_, node)| node),
    }
}
