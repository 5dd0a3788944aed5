//! One answer to a scrape, in the text format of Prometheus. The one door to the crate that writes it.

use prometheus::{Encoder as _, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

/// The media type of [`Page::finish`].
pub(super) const MEDIA_TYPE: &str = prometheus::TEXT_FORMAT;

/// The families of one scrape. They are made anew each time from what is counted elsewhere, so that what is gone (a
/// site, a node) is gone here as well.
#[derive(Default)]
pub(super) struct Page {
    registry: Registry,
}

/// The values of a family, with the values of its labels.
pub(super) type Values<'a, T> = Vec<(Vec<&'a str>, T)>;

impl Page {
    /// A family of counters, whose names end with `_total`.
    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: Values<'_, u64>,
    ) -> Result<(), prometheus::Error> {
        let family = IntCounterVec::new(Opts::new(name, help), labels)?;
        for (labels, value) in values {
            family.get_metric_with_label_values(&labels)?.inc_by(value);
        }
        self.registry.register(Box::new(family))
    }

    /// A family of values that go up and down.
    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: Values<'_, f64>,
    ) -> Result<(), prometheus::Error> {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        for (labels, value) in values {
            family.get_metric_with_label_values(&labels)?.set(value);
        }
        self.registry.register(Box::new(family))
    }

    /// A counter without labels.
    pub(super) fn counter(&self, name: &str, help: &str, value: u64) -> Result<(), prometheus::Error> {
        self.counters(name, help, &[], vec![(vec![], value)])
    }

    /// A value without labels.
    pub(super) fn gauge(&self, name: &str, help: &str, value: f64) -> Result<(), prometheus::Error> {
        self.gauges(name, help, &[], vec![(vec![], value)])
    }

    /// The text.
    pub(super) fn finish(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_help_type_and_one_line_for_each_value() {
        let page = Page::default();
        page.counters("a_total", "Counts a.", &["way"], vec![(vec!["one"], 3), (vec!["two\"\n"], 0)])
            .unwrap();
        page.gauge("b", "How much b.", 0.5).unwrap();
        let text = String::from_utf8(page.finish().unwrap()).unwrap();
        let wanted = "# HELP a_total Counts a.\n# TYPE a_total counter\na_total{way=\"one\"} 3\n\
                      a_total{way=\"two\\\"\\n\"} 0\n# HELP b How much b.\n# TYPE b gauge\nb 0.5\n";
        assert_eq!(text, wanted);
    }
}
