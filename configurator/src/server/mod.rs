//! HTTP for one person's browser.
//!
//! Each request passes the [`guard`] first. Documents change under one lock; nothing waits while it is held
//! but reading and writing of their files.

mod guard;
mod open;
mod reply;
mod route;

pub use guard::{Guard, Token};
pub use open::open_browser;
pub use route::router;

use crate::work::Work;
use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};

/// The style sheet.
pub const STYLE: &str = include_str!("../../assets/style.css");
const SCRIPT: &str = include_str!("../../assets/script.js");
const ICON: &str = include_str!("../../assets/icon.svg");

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    guard: Guard,
    work: Mutex<Work>,
}

impl Shared {
    /// For documents and who may see them.
    pub fn new(guard: Guard, work: Work) -> Arc<Self> {
        let work = Mutex::new(work);
        Arc::new(Self { guard, work })
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // A panic ends the program, so a lock is not left in between.
        self.work
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Serves, until the program is ended.
///
/// # Errors
/// The socket fails.
pub async fn serve(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    app: Router,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let service = app.into_make_service();
    match tls {
        Some(tls) => {
            axum_server::from_tcp_rustls(listener, tls)?
                .serve(service)
                .await
        }
        None => axum_server::from_tcp(listener)?.serve(service).await,
    }
}
