//! Chooses the exposition and the compression that a client asks for.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

use super::Format;

/// Gives the format that the client likes best; the text exposition when it names none that is known.
pub(crate) fn format(headers: &HeaderMap) -> Format {
    let mut best = (0, 0, Format::Text);
    for item in items(headers, &ACCEPT) {
        let Some((format, precision)) = offered(&item) else { continue };
        if (item.quality, precision) > (best.0, best.1) && item.quality > 0 {
            best = (item.quality, precision, format);
        }
    }
    best.2
}

/// Says whether the client takes gzip.
pub(crate) fn gzip(headers: &HeaderMap) -> bool {
    items(headers, &ACCEPT_ENCODING).any(|item| {
        item.quality > 0 && (item.name.eq_ignore_ascii_case("gzip") || item.name.eq_ignore_ascii_case("x-gzip"))
    })
}

/// Gives the format that a media range means, and how precise the range is.
fn offered(item: &Item<'_>) -> Option<(Format, u8)> {
    let name = item.name.to_ascii_lowercase();
    let (format, precision) = match name.as_str() {
        "application/vnd.google.protobuf" => {
            let family = item.parameter("proto") == Some("io.prometheus.client.MetricFamily");
            let delimited = item.parameter("encoding") == Some("delimited");
            (family && delimited).then_some((Format::Protobuf, 3))?
        }
        "application/openmetrics-text" => match item.parameter("version") {
            None | Some("1.0.0") => (Format::OpenMetrics, 3),
            Some("0.0.1") => (Format::OpenMetrics0, 3),
            Some(_) => return None,
        },
        "text/plain" => match item.parameter("version") {
            None | Some("0.0.4") => (Format::Text, 3),
            Some(_) => return None,
        },
        "text/*" => (Format::Text, 2),
        "*/*" => (Format::Text, 1),
        _ => return None,
    };
    Some((format, precision))
}

/// One item of a header that lists alternatives.
struct Item<'a> {
    name: &'a str,
    parameters: &'a str,
    /// 0 to 1000.
    quality: u16,
}

impl<'a> Item<'a> {
    fn parse(text: &'a str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut item = Self { name: name.trim(), parameters, quality: 1000 };
        if let Some(quality) = item.parameter("q") {
            let quality = quality.parse::<f64>().ok().filter(|quality| (0.0..=1.0).contains(quality));
            item.quality = quality.map_or(0, |quality| (quality * 1000.0) as u16);
        }
        item
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.split(';').find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
        })
    }
}

fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Item<'a>> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(Item::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMETHEUS_3: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
        encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
        application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
        text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_best_format_wins() {
        let proto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily";
        let cases = [
            (PROMETHEUS_3, Format::Protobuf),
            (PROMETHEUS_2, Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::OpenMetrics0),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format::Text),
            ("text/plain", Format::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Text),
            ("*/*", Format::Text),
            ("*/*, application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Format::Text),
            ("application/openmetrics-text;q=nonsense", Format::Text),
            ("application/json", Format::Text),
            ("", Format::Text),
            (proto, Format::Text),
            (&format!("{proto};encoding=text"), Format::Text),
            (&format!("{proto};encoding=delimited"), Format::Protobuf),
            ("APPLICATION/OpenMetrics-Text;VERSION=1.0.0", Format::OpenMetrics),
        ];
        for (accept, expected) in cases {
            assert_eq!(format(&headers(ACCEPT, accept)), expected, "{accept}");
        }
        assert_eq!(format(&HeaderMap::new()), Format::Text);
    }

    #[test]
    fn several_headers_count_as_one() {
        let mut all = headers(ACCEPT, "text/plain;q=0.5");
        all.append(ACCEPT, "application/openmetrics-text".parse().unwrap());
        assert_eq!(format(&all), Format::OpenMetrics);
    }

    #[test]
    fn gzip_is_used_where_it_is_taken() {
        let cases =
            [("gzip", true), ("deflate, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false), ("", false)];
        for (encoding, expected) in cases {
            assert_eq!(gzip(&headers(ACCEPT_ENCODING, encoding)), expected, "{encoding}");
        }
    }
}
