//! The daemon's HTTP interface on its Unix socket; `openapi.json` describes it.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use futures_util::{Stream, stream};
use serde::Deserialize;

use crate::adoption::started;
use crate::daemon::{Problem, Shared};
use crate::definition::{DefinitionError, Restart};
use crate::dm;
use crate::tail::Tail;
use crate::view::{NewVm, Refused, Stats, VmState, VmView};

/// The description, for clients and for a test.
pub const OPENAPI: &str = include_str!("../openapi.json");
/// How often it is looked whether a log has grown.
const LOG_LOOK: Duration = Duration::from_millis(200);
/// Clock ticks of `/proc` a second, which Linux has fixed for programs.
const TICK_MS: u64 = 10;

type Answer<T> = Result<Json<T>, Error>;

/// Every route: method, path, what serves it.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Shared>)> {
    vec![
        ("get", "/v1/vms", get(list)),
        ("post", "/v1/vms", post(add)),
        ("get", "/v1/vms/{name}", get(show)),
        ("delete", "/v1/vms/{name}", delete(remove)),
        ("post", "/v1/vms/{name}/start", post(start)),
        ("post", "/v1/vms/{name}/stop", post(stop)),
        ("post", "/v1/vms/{name}/reset", post(reset)),
        ("post", "/v1/vms/{name}/pause", post(pause)),
        ("post", "/v1/vms/{name}/suspend", post(suspend)),
        ("post", "/v1/vms/{name}/resume", post(resume)),
        ("post", "/v1/vms/{name}/blkrescan", post(blkrescan)),
        ("get", "/v1/vms/{name}/stats", get(stats)),
        ("get", "/v1/vms/{name}/log", get(log)),
        ("get", "/v1/events", get(events)),
        ("get", "/v1/openapi.json", get(openapi)),
    ]
}

/// The service.
pub fn router(shared: Shared) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, serve)| {
            router.route(path, serve)
        })
        .fallback(nothing_here)
        .with_state(shared)
}

/// A refusal and its status.
struct Error(StatusCode, String);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.0, Json(Refused { error: self.1 })).into_response()
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let status = match &problem {
            Problem::NoSuchVm(_) => StatusCode::NOT_FOUND,
            Problem::Exists(_) | Problem::State(..) | Problem::Busy(_) => StatusCode::CONFLICT,
            Problem::Invalid(..) | Problem::Definition(_) => StatusCode::BAD_REQUEST,
            Problem::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Problem::Dm(_, dm::DmError::Refused(_)) => StatusCode::CONFLICT,
            Problem::Dm(..) => StatusCode::BAD_GATEWAY,
        };
        Self(status, problem.to_string())
    }
}

impl From<DefinitionError> for Error {
    fn from(error: DefinitionError) -> Self {
        Problem::from(error).into()
    }
}

impl From<JsonRejection> for Error {
    fn from(error: JsonRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, error.body_text())
    }
}

impl From<QueryRejection> for Error {
    fn from(error: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, error.body_text())
    }
}

async fn nothing_here() -> Error {
    let text = "there is nothing here: GET /v1/openapi.json describes what there is";
    Error(StatusCode::NOT_FOUND, text.to_owned())
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn list(State(shared): State<Shared>) -> Json<Vec<VmView>> {
    let views = shared.lock().views();
    let mut all = Vec::with_capacity(views.len());
    for view in views {
        all.push(with_sleep(&shared, view).await);
    }
    let groups: Vec<i32> = all.iter().filter_map(|vm| vm.group).collect();
    let sockets = shared.lock().settings.sockets();
    all.extend(dm::strangers(&sockets, &groups).into_iter().map(untracked));
    Json(all)
}

/// A VM that is not the daemon's.
fn untracked((name, group): (String, i32)) -> VmView {
    VmView {
        name,
        state: VmState::Untracked,
        group: Some(group),
        autostart: false,
        restart: Restart::Never,
        restarts: 0,
        exit_status: None,
        error: None,
        console: None,
    }
}

async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<VmView> {
    let view = shared.lock().view(&name)?;
    Ok(Json(with_sleep(&shared, view).await))
}

/// Only `acrn-dm` knows whether a VM is paused or suspended.
async fn with_sleep(shared: &Shared, mut view: VmView) -> VmView {
    if let (VmState::Started, Some(group)) = (view.state, view.group) {
        let sockets = shared.lock().settings.sockets();
        let status = dm::status(&sockets, group).await;
        match status.as_ref().map(|status| status.state.as_str()) {
            Ok("paused") => view.state = VmState::Paused,
            Ok("suspended") => view.state = VmState::Suspended,
            _ => {}
        }
    }
    view
}

async fn add(
    State(shared): State<Shared>,
    new: Result<Json<NewVm>, JsonRejection>,
) -> Result<(StatusCode, Json<VmView>), Error> {
    let Json(new) = new?;
    let mut daemon = shared.lock();
    daemon.add(&new.name, &new.definition)?;
    Ok((StatusCode::CREATED, Json(daemon.view(&new.name)?)))
}

async fn remove(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    shared.lock().delete(&name)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn start(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<VmView> {
    let mut daemon = shared.lock();
    daemon.start_vm(&shared, &name)?;
    Ok(Json(daemon.view(&name)?))
}

#[derive(Deserialize)]
struct StopQuery {
    #[serde(default)]
    force: bool,
}

async fn stop(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<StopQuery>, QueryRejection>,
) -> Answer<VmView> {
    let force = query?.force;
    let mut daemon = shared.lock();
    daemon.stop_vm(&shared, &name, force)?;
    Ok(Json(daemon.view(&name)?))
}

async fn reset(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<VmView> {
    command(&shared, &name, "reset", "").await
}

async fn pause(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<VmView> {
    command(&shared, &name, "pause", "").await
}

async fn suspend(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<VmView> {
    command(&shared, &name, "suspend", "").await
}

async fn resume(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<VmView> {
    command(&shared, &name, "resume", "").await
}

#[derive(Deserialize)]
struct RescanQuery {
    device: String,
}

async fn blkrescan(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<RescanQuery>, QueryRejection>,
) -> Answer<VmView> {
    command(&shared, &name, "blkrescan", &query?.device).await
}

/// Has a VM's `acrn-dm` carry a command out.
async fn command(shared: &Shared, name: &str, command: &str, device: &str) -> Answer<VmView> {
    let (group, sockets) = {
        let mut daemon = shared.lock();
        (daemon.group(name)?, daemon.settings.sockets())
    };
    dm::command(&sockets, group, command, device)
        .await
        .map_err(|error| Problem::Dm(name.to_owned(), error))?;
    shared.lock().event(name, command, device.to_owned());
    let view = shared.lock().view(name)?;
    Ok(Json(with_sleep(shared, view).await))
}

async fn stats(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Stats> {
    let (group, sockets, restarts) = {
        let mut daemon = shared.lock();
        let restarts = daemon.view(&name)?.restarts;
        (daemon.group(&name)?, daemon.settings.sockets(), restarts)
    };
    let status = dm::status(&sockets, group)
        .await
        .map_err(|error| Problem::Dm(name.clone(), error))?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", status.pid))
        .ok()
        .filter(|stat| started(stat).is_some())
        .ok_or_else(|| Problem::Dm(name.clone(), dm::DmError::Absent))?;
    let (dm_cpu_ms, dm_threads) = usage(&stat);
    Ok(Json(Stats {
        name,
        pid: status.pid,
        vmid: status.vmid,
        vcpus: status.vcpus,
        memory: status.memory,
        huge_pages: status.huge_pages,
        dm_cpu_ms,
        dm_threads,
        restarts,
    }))
}

/// CPU time in milliseconds, user and system, and threads in `/proc/PID/stat`.
fn usage(stat: &str) -> (u64, u64) {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let number = |index| {
        let mut fields = fields.split_whitespace();
        fields
            .nth(index)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let ticks = number(11).saturating_add(number(12));
    (ticks.saturating_mul(TICK_MS), number(17))
}

#[derive(Deserialize)]
struct LogQuery {
    #[serde(default)]
    follow: bool,
}

async fn log(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(LogQuery { follow }) = query?;
    let path = {
        let mut daemon = shared.lock();
        daemon.view(&name)?;
        daemon.settings.log(&name)
    };
    let mut tail = Tail::new(path.clone());
    let begin = tail.read();
    let begin = begin.map_err(|source| Problem::File { path, source })?;
    let body = if follow {
        Body::from_stream(following(tail, begin))
    } else {
        Body::from(begin)
    };
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

/// What is there, then what is added, for as long as somebody reads.
fn following(tail: Tail, begin: Vec<u8>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold((tail, Some(begin)), |(mut tail, begin)| async {
        if let Some(begin) = begin {
            return Some((Ok(begin.into()), (tail, None)));
        }
        loop {
            tokio::time::sleep(LOG_LOOK).await;
            match tail.read() {
                Ok(more) if more.is_empty() => {}
                Ok(more) => return Some((Ok(more.into()), (tail, None))),
                Err(error) => return Some((Err(error), (tail, None))),
            }
        }
    })
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

/// One JSON object a line: those that are kept, then, if asked for, each new one.
async fn events(
    State(shared): State<Shared>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(EventsQuery { after, follow }) = query?;
    let lines = stream::unfold(Some(after), move |after| {
        let shared = shared.clone();
        async move {
            let after = after?;
            let (mut events, mut newest) = shared.lock().events_after(after);
            if follow && events.is_empty() {
                newest.wait_for(|number| *number > after).await.ok()?;
                events = shared.lock().events_after(after).0;
            }
            let next = events.last().map_or(after, |event| event.number);
            let text: String = events
                .iter()
                .filter_map(|event| serde_json::to_string(event).ok())
                .map(|line| line + "\n")
                .collect();
            let item = Ok::<_, Infallible>(Bytes::from(text));
            Some((item, follow.then_some(next)))
        }
    });
    let body = Body::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_every_route_and_no_other() {
        let description: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let described: BTreeSet<(&str, &str)> = description["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods
                    .filter(|key| *key != "parameters")
                    .map(move |method| (method.as_str(), path.as_str()))
            })
            .collect();
        let routes = routes();
        let served = routes.iter().map(|(method, path, _)| (*method, *path));
        assert_eq!(described, served.collect());
    }

    #[test]
    fn the_description_has_the_fields_of_a_vm_and_of_its_stats() {
        let description: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let schemas = &description["components"]["schemas"];
        let keys = |value: &serde_json::Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let stats = Stats {
            name: String::new(),
            pid: 0,
            vmid: 0,
            vcpus: 0,
            memory: 0,
            huge_pages: false,
            dm_cpu_ms: 0,
            dm_threads: 0,
            restarts: 0,
        };
        let view = VmView {
            name: String::new(),
            state: VmState::Stopped,
            group: None,
            autostart: false,
            restart: Restart::Never,
            restarts: 0,
            exit_status: None,
            error: None,
            console: None,
        };
        let stats = serde_json::to_value(stats).unwrap();
        let view = serde_json::to_value(view).unwrap();
        assert_eq!(keys(&schemas["Stats"]["properties"]), keys(&stats));
        assert_eq!(keys(&schemas["Vm"]["properties"]), keys(&view));
    }

    #[test]
    fn usage_is_user_and_system_time_together() {
        let stat = "7 (a b) S 1 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 5 0 4711 10000 20";
        assert_eq!(usage(stat), (420, 5));
        assert_eq!(usage("cut short"), (0, 0));
    }
}
