//! Compares one snapshot as the Collector received it with the same snapshot as a scrape showed it, value by value.

use std::collections::BTreeSet;

use super::exposition::{Exposition, Labels};
use super::received::{Measured, Point};

/// Labels that only one of the two carries by contract.
const ONE_SIDED: [&str; 1] = ["k8s_pod_uid"];

/// Returns how many samples were compared, or every difference.
pub fn compare(points: &[&Point], scrape: &Exposition) -> Result<usize, Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut differences = Vec::new();
    let mut expect = |name: String, labels: &Labels, value: f64| {
        let key = (name, labels.clone());
        match scrape.samples.get(&key) {
            None => differences.push(format!("{} {labels:?} is pushed but not scraped", key.0)),
            Some(&scraped) if !same(scraped, value) => {
                differences.push(format!("{} {labels:?} is {value} pushed and {scraped} scraped", key.0));
            }
            Some(_) => {}
        }
        seen.insert(key);
    };
    for point in points {
        let mut labels = point.labels.clone();
        labels.retain(|label, _| !ONE_SIDED.contains(&label.as_str()));
        match &point.value {
            Measured::Gauge(value) => expect(point.metric.clone(), &labels, *value),
            Measured::Counter(value, _) => expect(total(&point.metric), &labels, *value),
            Measured::Histogram(count, sum, buckets) => {
                expect(format!("{}_count", point.metric), &labels, *count);
                expect(format!("{}_sum", point.metric), &labels, *sum);
                for (bound, text) in bounds(scrape, &format!("{}_bucket", point.metric), &labels) {
                    let within = if bound.is_infinite() {
                        *count
                    } else {
                        // A bound of a power of two is exact, one in between is off by rounding.
                        let within = buckets.iter().filter(|(upper, _)| *upper <= bound * (1.0 + 1e-9));
                        within.map(|(_, count)| count).sum()
                    };
                    let mut labels = labels.clone();
                    labels.insert("le".into(), text);
                    expect(format!("{}_bucket", point.metric), &labels, within);
                }
            }
        }
    }
    for (name, labels) in scrape.samples.keys() {
        let by_contract = name == "target_info" || name.ends_with("_created");
        if !by_contract && !seen.contains(&(name.clone(), labels.clone())) {
            differences.push(format!("{name} {labels:?} is scraped but not pushed"));
        }
    }
    if differences.is_empty() { Ok(seen.len()) } else { Err(differences) }
}

/// Returns the name of a counter's sample.
pub fn total(metric: &str) -> String {
    if metric.ends_with("_total") { metric.to_owned() } else { format!("{metric}_total") }
}

/// Returns the bounds that the scrape has for one classic histogram, as numbers and as written.
fn bounds(scrape: &Exposition, name: &str, labels: &Labels) -> Vec<(f64, String)> {
    let from = (name.to_owned(), Labels::new());
    let of_name = scrape.samples.range(from..).map(|(key, _)| key).take_while(|key| key.0 == name);
    of_name
        .filter_map(|(_, found)| {
            let mut others = found.clone();
            let text = others.remove("le")?;
            let bound = if text == "+Inf" { f64::INFINITY } else { text.parse().ok()? };
            (others == *labels).then_some((bound, text))
        })
        .collect()
}

/// Tells whether two values are the same number; a sum of seconds may differ in the last bit of its decimal form.
fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits() || (a - b).abs() <= f64::EPSILON * a.abs().max(b.abs())
}

#[cfg(test)]
mod tests {
    use super::super::exposition::parse;
    use super::*;

    fn point(metric: &str, value: Measured) -> Point {
        let labels = Labels::from([("syscall".to_owned(), "read".to_owned())]);
        Point { metric: metric.into(), labels, time: 1, start: 0, value }
    }

    const SCRAPE: &str = "calls_total{syscall=\"read\"} 3\ntime_ns_bucket{syscall=\"read\",le=\"16\"} 1\n\
        time_ns_bucket{syscall=\"read\",le=\"+Inf\"} 3\ntime_ns_sum{syscall=\"read\"} 60\ntime_ns_count{syscall=\"read\"} 3\n";

    #[test]
    fn equal_values_are_counted() {
        let buckets = vec![(0.0, 0.0), (8.0, 1.0), (16.0, 0.0), (32.0, 2.0)];
        let counter = point("calls", Measured::Counter(3.0, false));
        let histogram = point("time_ns", Measured::Histogram(3.0, 60.0, buckets));
        assert_eq!(compare(&[&counter, &histogram], &parse(SCRAPE).unwrap()), Ok(5));
    }

    #[test]
    fn every_difference_is_named() {
        let counter = point("calls", Measured::Counter(4.0, false));
        let gauge = point("gone", Measured::Gauge(1.0));
        let differences = compare(&[&counter, &gauge], &parse(SCRAPE).unwrap()).unwrap_err();
        assert!(differences.iter().any(|d| d.contains("is 4 pushed and 3 scraped")), "{differences:?}");
        assert!(differences.iter().any(|d| d.contains("gone") && d.contains("not scraped")), "{differences:?}");
        assert!(differences.iter().any(|d| d.contains("time_ns_sum") && d.contains("not pushed")), "{differences:?}");
    }
}
