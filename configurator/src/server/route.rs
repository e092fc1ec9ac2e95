//! Requests and their handlers.

use super::guard::{Facts, Verdict, cookie};
use super::{ICON, SCRIPT, STYLE, Shared, reply};
use crate::document::{Document, Edit};
use crate::outputs::outputs;
use crate::pages::{self, Page, Parts, Recent, Theme};
use crate::work::{MAX_FILE, Request as OpenRequest};
use acrn_config::deploy;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

type Work = State<Arc<Shared>>;

/// Everything that is answered.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(start))
        .route("/open", post(open))
        .route("/d/{id}/edit", post(edit))
        .route("/d/{id}/step", post(step))
        .route("/d/{id}/save", post(save))
        .route("/d/{id}/summary", get(summary))
        .route("/d/{id}/package", get(package))
        .route("/d/{id}/file/{name}", get(file))
        .route("/d/{id}/{page}", get(page))
        .route(
            "/assets/style.css",
            get(|| async { reply::asset("text/css; charset=utf-8", STYLE) }),
        )
        .route(
            "/assets/script.js",
            get(|| async { reply::asset("text/javascript; charset=utf-8", SCRIPT) }),
        )
        .route(
            "/assets/icon.svg",
            get(|| async { reply::asset("image/svg+xml", ICON) }),
        )
        .fallback(|| async {
            reply::failure(
                StatusCode::NOT_FOUND,
                "No such page",
                "There is nothing at this address.",
            )
        })
        .layer(DefaultBodyLimit::max(4 * MAX_FILE as usize))
        .layer(from_fn_with_state(shared.clone(), guarded))
        .with_state(shared)
}

/// Lets requests pass or not, and gives every answer its headers.
async fn guarded(State(shared): Work, request: Request, next: Next) -> Response {
    let verdict = shared.guard.judge(&facts(&request));
    let mut response = match verdict {
        Verdict::Pass => next.run(request).await,
        Verdict::Welcome => welcome(&shared, request.uri().path()),
        Verdict::Refuse(why) => reply::failure(StatusCode::FORBIDDEN, "Refused", why.text()),
    };
    let headers = response.headers_mut();
    for (name, value) in reply::HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn facts(request: &Request) -> Facts<'_> {
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let words = request.uri().query().unwrap_or_default().split('&');
    Facts {
        changes: request.method() != Method::GET && request.method() != Method::HEAD,
        is_asset: request.uri().path().starts_with("/assets/"),
        // A request of HTTP/2 has its host in the address.
        host: text(header::HOST)
            .or(request.uri().authority().map(|host| host.as_str()))
            .unwrap_or_default(),
        origin: text(header::ORIGIN),
        cookies: text(header::COOKIE).unwrap_or_default(),
        token: words.filter_map(|word| word.strip_prefix("token=")).next(),
    }
}

/// The address without the secret, and the cookie instead.
fn welcome(shared: &Shared, path: &str) -> Response {
    // Two slashes would begin the name of another server.
    let path = if path.starts_with("//") { "/" } else { path };
    let mut response = Redirect::to(path).into_response();
    if let Ok(cookie) = HeaderValue::from_str(&shared.guard.cookie()) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn theme(headers: &HeaderMap) -> Theme {
    let cookies = headers
        .get(header::COOKIE)
        .and_then(|value| value.to_str().ok());
    Theme::of(
        cookies
            .and_then(|cookies| cookie(cookies, "theme"))
            .unwrap_or_default(),
    )
}

async fn start(State(shared): Work, headers: HeaderMap) -> Response {
    let work = shared.work();
    let open = work.all().map(|(id, open)| {
        (
            id,
            open.document.name().to_owned(),
            open.document.is_changed(),
        )
    });
    let open: Vec<_> = open.collect();
    let recent = work
        .recent
        .entries
        .iter()
        .enumerate()
        .map(|(number, entry)| Recent {
            number,
            scenario: entry.scenario.display().to_string(),
            board: entry.board.display().to_string(),
        });
    reply::page(pages::start(
        theme(&headers),
        &open,
        &recent.collect::<Vec<_>>(),
    ))
}

async fn open(State(shared): Work, Json(request): Json<OpenRequest>) -> Response {
    let mut work = shared.work();
    let opened = work.open(&request);
    match opened {
        Ok(id) => {
            let has_changes = work
                .get(id)
                .is_ok_and(|open| !open.document.changes().is_empty());
            let page = if has_changes { "changes" } else { "board" };
            Json(json!({ "location": format!("/d/{id}/{page}") })).into_response()
        }
        Err(error) => reply::refusal(&error.to_string()),
    }
}

async fn page(
    State(shared): Work,
    Path((id, page)): Path<(u32, String)>,
    headers: HeaderMap,
) -> Response {
    let mut work = shared.work();
    let open = match work.get(id) {
        Ok(open) => open,
        Err(error) => return reply::absent(&error),
    };
    let Some(page) = Page::of(&page) else {
        return reply::failure(
            StatusCode::NOT_FOUND,
            "No such page",
            "There is nothing at this address.",
        );
    };
    let directory = open.directory.display().to_string();
    reply::page(pages::editor(
        &open.document,
        id,
        page,
        &directory,
        theme(&headers),
    ))
}

async fn summary(State(shared): Work, Path(id): Path<u32>) -> Response {
    match shared.work().get(id) {
        Ok(open) => reply::page(pages::summary::summary(&open.document, id)),
        Err(error) => reply::absent(&error),
    }
}

async fn file(State(shared): Work, Path((id, name)): Path<(u32, String)>) -> Response {
    let mut work = shared.work();
    let files = match work.get(id) {
        Ok(open) => outputs(&open.document),
        Err(error) => return reply::absent(&error),
    };
    match files.into_iter().find(|file| file.name == name) {
        Some(file) => reply::download(&file.name, file.bytes),
        None => reply::failure(
            StatusCode::NOT_FOUND,
            "No such file",
            "This configuration has no such file now.",
        ),
    }
}

/// The scenario as a Debian package that replaces earlier ones.
async fn package(State(shared): Work, Path(id): Path<u32>) -> Response {
    let mut work = shared.work();
    let document = match work.get(id) {
        Ok(open) => &open.document,
        Err(error) => return reply::absent(&error),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = now.map_or(0, |now| now.as_secs());
    let version = deploy::version_at(time);
    match deploy::package(document.board(), document.scenario(), &version, time) {
        Ok((name, bytes, _)) => reply::download(&name, bytes),
        Err(error) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            reply::failure(status, "No package", &error.to_string())
        }
    }
}

/// What has become of a document, for the script.
#[derive(Serialize)]
struct Changed {
    page: String,
    parts: Parts,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// The page on which the person is.
#[derive(Deserialize)]
struct EditRequest {
    page: String,
    edit: Edit,
    #[serde(default)]
    typing: bool,
}

async fn edit(
    State(shared): Work,
    Path(id): Path<u32>,
    Json(request): Json<EditRequest>,
) -> Response {
    with(&shared, id, &request.page, |document, page| {
        let before = names(document);
        document
            .apply(&request.edit, request.typing)
            .map_err(|error| error.to_string())?;
        Ok((follow(page, &request.edit, &before, &names(document)), None))
    })
}

/// A step through what was done.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Undo,
    Redo,
}

#[derive(Deserialize)]
struct StepRequest {
    page: String,
    step: Step,
}

async fn step(
    State(shared): Work,
    Path(id): Path<u32>,
    Json(request): Json<StepRequest>,
) -> Response {
    with(&shared, id, &request.page, |document, page| {
        let done = match request.step {
            Step::Undo => document.undo(),
            Step::Redo => document.redo(),
        };
        let nothing = (!done).then(|| "There is nothing left.".to_owned());
        Ok((page, nothing))
    })
}

#[derive(Deserialize)]
struct SaveRequest {
    page: String,
    directory: Option<PathBuf>,
}

async fn save(
    State(shared): Work,
    Path(id): Path<u32>,
    Json(request): Json<SaveRequest>,
) -> Response {
    let saved = {
        let mut work = shared.work();
        let directory = match request.directory {
            Some(directory) => Ok(directory),
            None => work.get(id).map(|open| open.directory.clone()),
        };
        directory.and_then(|directory| work.save(id, &directory))
    };
    match saved {
        Ok(path) => with(&shared, id, &request.page, |_, page| {
            Ok((page, Some(format!("Saved: {}", path.display()))))
        }),
        Err(error) => reply::refusal(&error.to_string()),
    }
}

/// Does something with a document and answers with the parts of the page where that leads.
fn with(
    shared: &Shared,
    id: u32,
    page: &str,
    act: impl FnOnce(&mut Document, Page) -> Result<(Page, Option<String>), String>,
) -> Response {
    let mut work = shared.work();
    let open = match work.get(id) {
        Ok(open) => open,
        Err(error) => return reply::refusal(&error.to_string()),
    };
    let page = Page::of(page).unwrap_or(Page::Board);
    match act(&mut open.document, page) {
        Ok((page, message)) => {
            let page = existing(page, &open.document);
            let directory = open.directory.display().to_string();
            let parts = pages::parts(&open.document, id, page, &directory);
            Json(Changed {
                page: page.path(),
                parts,
                message,
            })
            .into_response()
        }
        Err(text) => reply::refusal(&text),
    }
}

fn names(document: &Document) -> Vec<String> {
    let vms = document.scenario().model.vms.iter();
    vms.map(|vm| vm.name.clone()).collect()
}

/// The page where an edit leads: to a new VM, or after one that moves.
fn follow(page: Page, edit: &Edit, before: &[String], after: &[String]) -> Page {
    let place = |name: &String| after.iter().position(|other| other == name).map(Page::Vm);
    let new = || {
        after
            .iter()
            .find(|name| !before.contains(name))
            .and_then(place)
    };
    let leads = match (edit, page) {
        (Edit::AddVm { .. } | Edit::CopyVm { .. }, _) => new(),
        (Edit::MoveVm { .. }, Page::Vm(vm)) => before.get(vm).and_then(place),
        (Edit::Set { path, .. }, Page::Vm(vm)) if path.ends_with("/load_order") => {
            before.get(vm).and_then(place)
        }
        _ => None,
    };
    leads.unwrap_or(page)
}

/// The last VM instead of one that does not exist any more.
fn existing(page: Page, document: &Document) -> Page {
    let count = document.scenario().model.vms.len();
    match page {
        Page::Vm(vm) if vm >= count => count.checked_sub(1).map_or(Page::Hypervisor, Page::Vm),
        page => page,
    }
}

#[cfg(test)]
mod tests;
