//! Which form of an answer the caller wants.

use axum::http::{HeaderMap, header};

/// JSON alone.
pub(crate) const JSON: &[&str] = &["application/json"];
/// A QR code: its text as JSON, or a picture.
pub(crate) const QR: &[&str] = &["application/json", "image/png", "image/svg+xml"];
/// Server-sent events.
pub(crate) const EVENT_STREAM: &[&str] = &["text/event-stream"];

/// How well a media range fits: nothing, everything, the type, the very name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Everything,
    Type,
    Exact,
}

/// The best of the forms for what `Accept` says; `None` where it wants none of them (RFC 9110, 12.5.1).
pub(crate) fn choose(headers: &HeaderMap, forms: &'static [&'static str]) -> Option<&'static str> {
    let ranges: Vec<(&str, u16)> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(','))
        .filter_map(range)
        .collect();
    if ranges.is_empty() {
        return forms.first().copied();
    }
    let mut best: Option<(u16, &'static str)> = None;
    for form in forms {
        let weight = weight(&ranges, form);
        if 0 < weight && best.is_none_or(|(before, _)| before < weight) {
            best = Some((weight, form));
        }
    }
    best.map(|(_, form)| form)
}

/// The weight of the range that fits best.
fn weight(ranges: &[(&str, u16)], form: &str) -> u16 {
    let fits = ranges
        .iter()
        .filter_map(|(range, weight)| fit(range, form).map(|it| (it, *weight)));
    fits.max_by_key(|(fit, _)| *fit)
        .map_or(0, |(_, weight)| weight)
}

fn fit(range: &str, form: &str) -> Option<Fit> {
    if range == "*/*" || range == "*" {
        return Some(Fit::Everything);
    }
    if range.eq_ignore_ascii_case(form) {
        return Some(Fit::Exact);
    }
    let wanted = range.strip_suffix("/*")?;
    let (kind, _) = form.split_once('/')?;
    wanted.eq_ignore_ascii_case(kind).then_some(Fit::Type)
}

/// Reads one range: its name, and its weight in thousandths.
fn range(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|it| !it.is_empty())?;
    let weight = parts
        .find_map(|it| it.strip_prefix("q=").or_else(|| it.strip_prefix("Q=")))
        .map_or(1_000, thousandths);
    Some((name, weight))
}

fn thousandths(text: &str) -> u16 {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let part = format!("{rest:0<3}");
    match (whole, part.get(..3).and_then(|it| it.parse::<u16>().ok())) {
        ("0", Some(part)) => part,
        ("1", _) => 1_000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn chosen(accept: &str, forms: &'static [&'static str]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        choose(&headers, forms)
    }

    #[test]
    fn the_accept_header_is_read_as_the_rfc_says() {
        let json = Some("application/json");
        for (accept, expected) in [
            ("*/*", json),
            ("application/json", json),
            ("Application/JSON; charset=utf-8", json),
            ("application/*", json),
            ("text/html, application/json;q=0.5", json),
            ("text/html, */*;q=0.1", json),
            ("", json),
            ("application/xml", None),
            ("text/*", None),
            ("application/json;q=0", None),
            ("application/json;q=0.0, */*", None),
            ("*/*;q=0", None),
            ("application/jsonp", None),
            ("application/json;q=x", None),
        ] {
            assert_eq!(chosen(accept, JSON), expected, "{accept}");
        }
        assert_eq!(choose(&HeaderMap::new(), JSON), json);
    }

    #[test]
    fn the_form_with_the_greatest_weight_wins_and_then_the_first() {
        for (accept, expected) in [
            ("image/png", "image/png"),
            ("image/*", "image/png"),
            ("image/svg+xml, image/png;q=0.9", "image/svg+xml"),
            ("*/*", "application/json"),
            ("image/*;q=0.5, image/svg+xml;q=0.7", "image/svg+xml"),
            (
                "text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8",
                "application/json",
            ),
        ] {
            assert_eq!(chosen(accept, QR), Some(expected), "{accept}");
        }
    }
}
