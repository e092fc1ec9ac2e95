//! Requests to the daemon.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::view::Refused;

/// Why a request was in vain.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "acrnd does not answer at {}: {source}; start it with `systemctl start acrnd`, or as \
         root with `acrnd &`",
        path.display()
    )]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket may not be used.
    #[error("{} may not be opened: run acrnctl as root", .0.display())]
    NotRoot(PathBuf),
    /// The conversation broke off.
    #[error("acrnd's answer is cut short: {0}; try again")]
    Broken(String),
    /// The daemon says no.
    #[error("{reason}")]
    Refused {
        /// The status.
        status: u16,
        /// A sentence.
        reason: String,
    },
}

/// Sends a request; the answer's body is still to be read.
///
/// # Errors
/// No daemon, or it refuses.
pub async fn send(
    socket: &Path,
    method: &str,
    target: &str,
    body: Vec<u8>,
) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let path = socket.to_owned();
        if source.kind() == std::io::ErrorKind::PermissionDenied {
            ClientError::NotRoot(path)
        } else {
            ClientError::NoDaemon { path, source }
        }
    })?;
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| broken(&error))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = read(response).await?;
    let reason = serde_json::from_slice(&text).map_or_else(
        |_| format!("acrnd answers {status}"),
        |Refused { error }| error,
    );
    Err(ClientError::Refused {
        status: status.as_u16(),
        reason,
    })
}

/// The whole body of an answer.
///
/// # Errors
/// It is cut short.
pub async fn read(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = response.into_body().collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| ClientError::Broken(error.to_string()))
}

/// A value as part of a path or query: everything but letters, digits and `-._` is escaped.
pub fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_place_in_a_path() {
        assert_eq!(escaped("../a?b=ä"), "..%2Fa%3Fb%3D%C3%A4");
        assert_eq!(escaped("POST_STD_VM1"), "POST_STD_VM1");
    }
}
