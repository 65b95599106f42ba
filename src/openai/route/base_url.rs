//! Where a route leads.
//!
//! Invariant: no message shows more of an address than its scheme and host.

use url::Url;

use crate::openai::address::is_loopback;

/// Whether a base URL may begin with `http:` though it leads to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    Loopback,
    Anywhere,
}

/// A base URL without a slash at its end; or what is wrong with it, told without what may be secret in it.
pub(super) fn normal(text: &str, http: Http) -> Result<String, String> {
    let url = Url::parse(text.trim()).map_err(|fault| format!("base_url: {fault}"))?;
    let host = url.host().ok_or_else(|| "base_url: it names no host".to_owned())?;
    let shown = format!("base_url {}://{host}", url.scheme());
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{shown}: it holds a user or password; a route has a key instead"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{shown}: it ends with a query or fragment; a base URL ends with its path"));
    }
    match (url.scheme(), http) {
        ("https", _) | ("http", Http::Anywhere) => {}
        ("http", Http::Loopback) if is_loopback(&host) => {}
        ("http", Http::Loopback) => {
            return Err(format!("{shown}: keys would be readable on the way; use https, or allow_http"));
        }
        _ => return Err(format!("{shown}: allowed are https and http")),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use crate::openai::route::Route;

    fn at(base_url: &str) -> Result<String, String> {
        let route = Route::compatible("proxy", base_url, "sk-planted").checked();
        route.map(|route| route.base_url).map_err(|error| error.to_string())
    }

    #[test]
    fn a_base_url_has_no_slash_at_its_end() {
        for (given, normal) in [
            ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
            ("https://API.openai.com:443", "https://api.openai.com"),
            ("http://localhost:8080/v1//", "http://localhost:8080/v1"),
            ("http://127.0.0.3", "http://127.0.0.3"),
            ("http://[::1]:9/", "http://[::1]:9"),
        ] {
            assert_eq!(at(given).as_deref(), Ok(normal), "{given}");
        }
    }

    #[test]
    fn a_base_url_that_would_give_a_secret_away_is_refused_without_showing_it() {
        for (given, fault) in [
            ("https://me:planted@proxy.example/v1", "holds a user or password"),
            ("https://proxy.example/v1?key=planted", "query or fragment"),
            ("http://proxy.example/planted", "use https, or allow_http"),
            ("http://127.0.0.1.planted.example", "use https, or allow_http"),
            ("ftp://proxy.example/planted", "allowed are https and http"),
            ("unix:/planted", "names no host"),
            ("planted", "base_url: "),
        ] {
            let refused = at(given).unwrap_err();
            assert!(refused.starts_with("route \"proxy\": base_url") && refused.contains(fault), "{given}: {refused}");
            assert!(!refused.contains("planted") || refused.contains("://127.0.0.1.planted"), "{refused}");
        }
        let anywhere = Route::compatible("proxy", "http://proxy.example", "key").allow_http().checked();
        assert_eq!(anywhere.unwrap().base_url, "http://proxy.example");
    }
}
