//! Answers.

use crate::pages::{Theme, problem};
use crate::work::WorkError;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, body::Body};
use maud::Markup;
use serde_json::json;

/// Headers of every answer: nothing from elsewhere is loaded, nothing is kept, and nobody frames it.
pub const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// A page.
pub fn page(markup: Markup) -> Response {
    Html(markup.into_string()).into_response()
}

/// A page that says what went wrong.
pub fn failure(status: StatusCode, title: &str, text: &str) -> Response {
    (status, page(problem(Theme::Auto, title, text))).into_response()
}

/// To the script: what went wrong.
pub fn refusal(text: &str) -> Response {
    (
        StatusCode::UNPROCESSABLE_ENTITY,
        Json(json!({ "error": text })),
    )
        .into_response()
}

/// To a page that shows something which is not there.
pub fn absent(error: &WorkError) -> Response {
    failure(StatusCode::NOT_FOUND, "Not open", &error.to_string())
}

/// A file to keep.
pub fn download(name: &str, bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    (headers, Body::from(bytes)).into_response()
}

/// A file of the program.
pub fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
