//! Who may ask over HTTP: with a configured token, whoever gives it, as on the other ports.
//!
//! A page to log in at, with a session behind it, would be more to get wrong. A browser asks for Basic credentials by itself
//! when it is told to, keeps them, and sends them with what the dashboard's page asks for, also with the live feed.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiError;
use crate::ports::access::{Access, token_in};
use crate::ports::tally::{Protocol, Tally, Turned};

/// What makes a browser ask its user.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"Lariat\", charset=\"UTF-8\"");

/// The token, and the account of who came without it.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) access: Access,
    pub(crate) tally: Arc<Tally>,
}

/// Lets a request pass when it brings the token, or when nobody has to.
pub(crate) async fn with_token(State(door): State<Door>, request: Request, next: Next) -> Response {
    let given = match request.headers().get(header::AUTHORIZATION) {
        None => Err("no token was given"),
        Some(given) => given.to_str().map_err(|_| "the header authorization is no text").and_then(token_in),
    };
    let refused = match given {
        _ if door.access.is_open() => return next.run(request).await,
        Ok(token) if door.access.admits(token.as_bytes()) => return next.run(request).await,
        Ok(_) => "the token is wrong",
        Err(why) => why,
    };
    door.tally.turned(Protocol::Http, Turned::Unauthenticated);
    let hint = "send Authorization: Bearer <query.token>, or the token as the password of Basic credentials";
    let error = ApiError {
        status: StatusCode::UNAUTHORIZED,
        code: "unauthenticated",
        message: refused.to_owned(),
        hint: Some(hint.to_owned()),
        coverage: None,
    };
    ([(header::WWW_AUTHENTICATE, CHALLENGE)], error).into_response()
}
