//! Who may talk to the program: the browser of the person who has started it.
//!
//! A secret in the address that is opened becomes a cookie at the first visit. The name by which the browser
//! knows the server must be an address or one of the server's names: a page elsewhere whose name begins to
//! mean this machine (DNS rebinding) is refused. What changes something must come from a page of this
//! server.

use std::fmt;
use std::net::IpAddr;
use subtle::ConstantTimeEq as _;

/// A secret.
#[derive(Clone)]
pub struct Token(String);

/// Who may talk to the program.
#[derive(Debug)]
pub struct Guard {
    token: Token,
    /// `http` or `https`.
    scheme: &'static str,
    port: u16,
    names: Vec<String>,
}

/// What counts of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Whether it changes something.
    pub changes: bool,
    /// Whether it is for something that everybody may have: style sheet, script, icon.
    pub is_asset: bool,
    /// Header `Host`.
    pub host: &'a str,
    /// Header `Origin`.
    pub origin: Option<&'a str>,
    /// Header `Cookie`.
    pub cookies: &'a str,
    /// The secret in the address.
    pub token: Option<&'a str>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered.
    Pass,
    /// It brings the secret: the browser gets the cookie.
    Welcome,
    /// It is refused.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server is not known by that name.
    Host,
    /// It comes from a page of somebody else.
    Origin,
    /// It has no secret, or a wrong one.
    Token,
}

impl Refusal {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Host => {
                "This server is not known by that name. Use its address, localhost, or a name that was given with --name."
            }
            Self::Origin => "The request does not come from a page of this server.",
            Self::Token => {
                "Open the address that acrn-configurator has printed: it has the secret that lets you in."
            }
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether it is that one. How long that takes says nothing about where they differ.
    fn is(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Guard {
    /// For a server at that port with these names beside `localhost` and addresses.
    pub fn new(token: Token, is_tls: bool, port: u16, names: Vec<String>) -> Self {
        let scheme = if is_tls { "https" } else { "http" };
        Self {
            token,
            scheme,
            port,
            names,
        }
    }

    /// What becomes of a request.
    pub fn judge(&self, facts: &Facts<'_>) -> Verdict {
        if !self.is_known(facts.host) {
            return Verdict::Refuse(Refusal::Host);
        }
        if facts.is_asset && !facts.changes {
            return Verdict::Pass;
        }
        if facts.changes && !self.is_own(facts) {
            return Verdict::Refuse(Refusal::Origin);
        }
        match facts.token {
            Some(token) if self.token.is(token) => return Verdict::Welcome,
            _ => {}
        }
        match cookie(facts.cookies, &self.cookie_name()) {
            Some(token) if self.token.is(token) => Verdict::Pass,
            _ => Verdict::Refuse(Refusal::Token),
        }
    }

    /// The cookie that lets a browser in. Ports do not separate cookies, so its name has the port.
    pub fn cookie(&self) -> String {
        let secure = if self.scheme == "https" {
            "; Secure"
        } else {
            ""
        };
        let (name, token) = (self.cookie_name(), self.token.text());
        format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax{secure}")
    }

    fn cookie_name(&self) -> String {
        format!("acrn-configurator-{}", self.port)
    }

    /// Whether a header `Host` is an address, `localhost` or a name of the server, with its port.
    fn is_known(&self, host: &str) -> bool {
        let default = if self.scheme == "https" { 443 } else { 80 };
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, Some(default)),
        };
        let plain = name.trim_start_matches('[').trim_end_matches(']');
        let is_name = |known: &String| known.eq_ignore_ascii_case(name);
        let is_known = plain.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(is_name);
        is_known && port == Some(self.port)
    }

    fn is_own(&self, facts: &Facts<'_>) -> bool {
        let own = format!("{}://{}", self.scheme, facts.host);
        facts
            .origin
            .is_some_and(|origin| origin.eq_ignore_ascii_case(&own))
    }
}

/// The value of a cookie.
pub fn cookie<'a>(cookies: &'a str, name: &str) -> Option<&'a str> {
    let pairs = cookies
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .into_iter()
        .find_map(|(found, value)| (found == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let token = Token("secret".to_owned());
        Guard::new(token, false, 8000, vec!["target.lan".to_owned()])
    }

    const GOOD: Facts<'static> = Facts {
        changes: true,
        is_asset: false,
        host: "127.0.0.1:8000",
        origin: Some("http://127.0.0.1:8000"),
        cookies: "a=b; acrn-configurator-8000=secret",
        token: None,
    };

    #[test]
    fn the_secret_lets_in_and_becomes_a_cookie() {
        let first = Facts {
            changes: false,
            cookies: "",
            token: Some("secret"),
            ..GOOD
        };
        assert_eq!(guard().judge(&first), Verdict::Welcome);
        assert!(
            guard()
                .cookie()
                .starts_with("acrn-configurator-8000=secret; ")
        );
        assert_eq!(guard().judge(&GOOD), Verdict::Pass);
    }

    #[test]
    fn without_the_secret_there_is_nothing_but_assets() {
        for cookies in [
            "",
            "acrn-configurator-8000=secre",
            "acrn-configurator-8001=secret",
        ] {
            let verdict = guard().judge(&Facts {
                cookies,
                token: Some("guess"),
                ..GOOD
            });
            assert_eq!(verdict, Verdict::Refuse(Refusal::Token), "{cookies}");
        }
        let asset = Facts {
            is_asset: true,
            changes: false,
            cookies: "",
            ..GOOD
        };
        assert_eq!(guard().judge(&asset), Verdict::Pass);
    }

    #[test]
    fn a_foreign_name_is_refused_even_with_the_secret() {
        for host in [
            "evil.example:8000",
            "127.0.0.1.evil.example:8000",
            "127.0.0.1:9",
            "",
            "[::1",
        ] {
            let verdict = guard().judge(&Facts { host, ..GOOD });
            assert_eq!(verdict, Verdict::Refuse(Refusal::Host), "{host}");
        }
        for host in [
            "localhost:8000",
            "[::1]:8000",
            "192.168.1.2:8000",
            "Target.lan:8000",
        ] {
            let origin = format!("http://{host}");
            let facts = Facts {
                host,
                origin: Some(&origin),
                ..GOOD
            };
            assert_eq!(guard().judge(&facts), Verdict::Pass, "{host}");
        }
    }

    #[test]
    fn what_changes_something_comes_from_a_page_of_the_server() {
        for origin in [
            None,
            Some("null"),
            Some("http://evil.example"),
            Some("https://127.0.0.1:8000"),
        ] {
            let verdict = guard().judge(&Facts { origin, ..GOOD });
            assert_eq!(verdict, Verdict::Refuse(Refusal::Origin), "{origin:?}");
        }
    }

    #[test]
    fn a_token_is_long_and_new_and_not_shown() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert!(one.text().len() == 64 && !one.is(other.text()));
        assert_eq!(format!("{one:?}"), "Token(…)");
    }
}
