//! The program `acrn-configurator`.

use crate::server::{self, Guard, Shared, Token, open_browser, router};
use crate::work::{Request, Source, Work};
use axum_server::tls_rustls::RustlsConfig;
use clap::{CommandFactory as _, Parser};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Lays out virtual machines of the ACRN hypervisor on a board, in a browser.
///
/// The program prints an address with a secret and opens the browser there; nobody else can use it. It goes on
/// until it is interrupted (Ctrl-C). With a scenario, that is opened at once.
///
/// Exit status: 0 when all is well, 1 when something failed, 2 when the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "acrn-configurator", version, max_term_width = 100)]
pub struct Args {
    /// Scenario file to open (XML).
    #[arg(requires = "board")]
    pub scenario: Option<PathBuf>,
    /// Board file of the scenario (XML).
    #[arg(long, value_name = "FILE")]
    pub board: Option<PathBuf>,
    /// Address and port to listen at; port 0 is any that is free.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Certificate (PEM): speak HTTPS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A name by which browsers know this machine, beside its addresses. Can be given more than once.
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Do not open the browser.
    #[arg(long)]
    pub no_browser: bool,
    /// Print a completion script for a shell, and nothing else.
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completion: Option<clap_complete::Shell>,
}

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "cannot listen at {address}: {source}; choose another port with --listen, or leave it out"
    )]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("certificate {} and key {}: {source}; both are PEM files", .cert.display(), .key.display())]
    Tls {
        cert: PathBuf,
        key: PathBuf,
        source: std::io::Error,
    },
    #[error("the system has no random numbers for a secret: {0}; try again later")]
    Random(getrandom::Error),
    #[error(transparent)]
    Work(#[from] crate::work::WorkError),
    #[error("{0}; start the program again")]
    Server(std::io::Error),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(shell) = args.completion {
        clap_complete::generate(
            shell,
            &mut Args::command(),
            "acrn-configurator",
            &mut std::io::stdout(),
        );
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(Error::Server)
        .and_then(|runtime| runtime.block_on(run(&args)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), Error> {
    let tls = tls(args).await?;
    let listener = TcpListener::bind(args.listen);
    let listen_error = |source| Error::Listen {
        address: args.listen,
        source,
    };
    let listener = listener.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let token = Token::random().map_err(Error::Random)?;
    let mut work = work();
    if let (Some(scenario), Some(board)) = (&args.scenario, &args.board) {
        work.open(&Request::Files {
            scenario: source(scenario).map_err(Error::Server)?,
            board: source(board).map_err(Error::Server)?,
            launch: None,
        })?;
    }
    announce(args, address, tls.is_some(), &token);
    let guard = Guard::new(token, tls.is_some(), address.port(), args.name.clone());
    let app = router(Shared::new(guard, work));
    server::serve(listener, tls, app)
        .await
        .map_err(Error::Server)
}

fn source(path: &Path) -> std::io::Result<Source> {
    std::path::absolute(path).map(Source::Path)
}

async fn tls(args: &Args) -> Result<Option<RustlsConfig>, Error> {
    let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    // It is the only one; a second call would say that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = RustlsConfig::from_pem_file(cert, key).await;
    config.map(Some).map_err(|source| Error::Tls {
        cert: cert.clone(),
        key: key.clone(),
        source,
    })
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| !path.as_os_str().is_empty())
}

fn work() -> Work {
    let home = variable("HOME").filter(|home| home.is_absolute());
    let home = home.unwrap_or_else(|| PathBuf::from("/tmp"));
    Work::new(crate::recent::path(variable), home)
}

/// Says where the program is, warns if others can listen, and opens the browser.
fn announce(args: &Args, address: SocketAddr, is_tls: bool, token: &Token) {
    let url = url(address, is_tls, token);
    println!("{url}");
    if !address.ip().is_loopback() && !is_tls {
        eprintln!(
            "WARNING: {address} can be reached from other machines, and without --tls-cert and --tls-key everybody\n\
             on the network can read what is sent, the secret included, and then change what you see."
        );
    }
    if args.no_browser {
        return;
    }
    let directory = variable("XDG_RUNTIME_DIR")
        .or_else(|| Some(crate::recent::path(variable)?.parent()?.to_owned()));
    let opened = directory.map(|directory| open_browser(&url, &directory));
    if !matches!(opened, Some(Ok(()))) {
        eprintln!("The browser cannot be opened from here; open the address above.");
    }
}

/// The address to open. A server that listens at all addresses is opened at the loopback.
fn url(address: SocketAddr, is_tls: bool, token: &Token) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    format!("{scheme}://{address}/?token={}", token.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["acrn-configurator", "--tls-cert", "a"]).is_err());
        assert!(Args::try_parse_from(["acrn-configurator", "scenario.xml"]).is_err());
    }

    #[test]
    fn the_address_can_be_opened() {
        let token = Token::random().unwrap();
        let all = url("0.0.0.0:80".parse().unwrap(), false, &token);
        assert_eq!(all, format!("http://127.0.0.1:80/?token={}", token.text()));
        assert!(url("[::]:443".parse().unwrap(), true, &token).starts_with("https://[::1]:443/?"));
    }
}
