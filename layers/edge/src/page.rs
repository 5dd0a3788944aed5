//! The pages that the edge writes itself: short, plain, and saying what is the matter.

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::EdgeBody;

/// What a page says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    pub(crate) text: &'static str,
}

pub(crate) const NOT_PUBLISHED: Page = Page {
    status: StatusCode::NOT_FOUND,
    title: "Nothing is published here",
    text: "This server answers for other addresses, not for the one you asked for. If you publish services here, \
           check that the resource exists and is enabled.",
};
pub(crate) const MISDIRECTED: Page = Page {
    status: StatusCode::MISDIRECTED_REQUEST,
    title: "Wrong connection",
    text: "This connection was opened for another address. Please open a new one.",
};
pub(crate) const NO_TARGET: Page = Page {
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "No service behind this address",
    text: "This address is published, but no enabled target is behind it.",
};
pub(crate) const UNREACHABLE: Page = Page {
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The service cannot be reached",
    text: "The site behind this address is not connected at the moment. Please try again shortly.",
};
pub(crate) const BUSY: Page = Page {
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The service is busy",
    text: "Too many requests are waiting for this service. Please try again shortly.",
};
pub(crate) const BROKEN: Page = Page {
    status: StatusCode::BAD_GATEWAY,
    title: "The service did not answer properly",
    text: "The service behind this address closed the connection or sent something that is not HTTP.",
};
pub(crate) const LATE: Page = Page {
    status: StatusCode::GATEWAY_TIMEOUT,
    title: "The service did not answer in time",
    text: "The service behind this address took the request but sent no response.",
};
pub(crate) const NO_BODY: Page = Page {
    status: StatusCode::REQUEST_TIMEOUT,
    title: "The request did not arrive",
    text: "The rest of the request was not sent in time.",
};
pub(crate) const NO_UPGRADE: Page = Page {
    status: StatusCode::BAD_GATEWAY,
    title: "The service speaks HTTP/2 only",
    text: "WebSockets need a target that speaks HTTP/1.1; the one behind this address is set to h2c.",
};

/// A page as a response, with the node and the request id in small print. Nothing that came from the client is
/// in it.
pub(crate) fn response(page: Page, node: &str, request_id: &str) -> Response<EdgeBody> {
    let Page { status, title, text } = page;
    let code = status.as_u16();
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{code} {title}</title>\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}}\
         small{{color:#666}}@media(prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}}}</style>\
         <h1>{title}</h1><p>{text}<p><small>{code} &middot; node {node} &middot; request {request_id}</small>\n"
    );
    let mut response = Response::new(EdgeBody::full(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

/// A refusal of a request that no well-behaved client sends: one line of text.
pub(crate) fn refusal(status: StatusCode, text: &str) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::full(format!("{text}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
