//! Bounds that a run must keep, given on the command line.

use std::str::FromStr;

use super::Report;

/// `NAME<=VALUE` or `NAME>=VALUE`, where the name is a figure's, or a latency's with a percentile (milliseconds).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Threshold {
    name: String,
    side: Side,
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    AtMost,
    AtLeast,
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at_most = text.rsplit_once("<=").map(|parts| (parts, Side::AtMost));
        let parsed = at_most.or_else(|| Some((text.rsplit_once(">=")?, Side::AtLeast)));
        let ((name, bound), side) =
            parsed.ok_or("a threshold is NAME<=VALUE or NAME>=VALUE, such as 'lost<=0'")?;
        Ok(Self {
            name: name.trim().to_owned(),
            side,
            bound: bound
                .trim()
                .parse()
                .map_err(|_| format!("{bound} is not a number"))?,
        })
    }
}

impl Threshold {
    /// What is wrong, if the report does not keep it. A name that the report does not have is wrong too.
    pub(super) fn missed(&self, report: &Report) -> Option<String> {
        let Some(found) = report.find(&self.name) else {
            return Some(format!("{}: the report has no such figure", self.name));
        };
        let (kept, sign) = match self.side {
            Side::AtMost => (found <= self.bound, "<="),
            Side::AtLeast => (found >= self.bound, ">="),
        };
        (!kept).then(|| format!("{}: {found:.3}, wanted {sign} {}", self.name, self.bound))
    }
}
