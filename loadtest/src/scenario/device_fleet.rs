//! Many devices: made, linked, removed, some at a time.

use tokio::task::JoinSet;

use crate::client::calls::Api;
use crate::error::LoadError;
use crate::progress;

/// Devices that are worked on at a time.
const AT_A_TIME: usize = 16;

/// Makes and links devices; answers their ids.
pub(crate) async fn link(api: &Api, count: u64) -> Result<Vec<String>, LoadError> {
    let linking = progress::bar(count, "linking devices");
    let names = (0..count).map(|index| format!("load {index}")).collect();
    let made = spread(
        names,
        |name| {
            let api = api.clone();
            async move {
                let device = api.create_device(&name).await?;
                api.link_device(&device.id).await?;
                Ok(device.id)
            }
        },
        || linking.inc(1),
    )
    .await?;
    linking.finish_and_clear();
    Ok(made)
}

/// Removes devices.
pub(crate) async fn remove(api: &Api, devices: Vec<String>) -> Result<(), LoadError> {
    let count = u64::try_from(devices.len()).unwrap_or(u64::MAX);
    let removing = progress::bar(count, "removing devices");
    let removed: Vec<()> = spread(
        devices,
        |device| {
            let api = api.clone();
            async move { api.delete_device(&device).await }
        },
        || removing.inc(1),
    )
    .await?;
    removing.finish_and_clear();
    drop(removed);
    Ok(())
}

/// Does the same for many, some at a time; the first error ends it.
async fn spread<T, F>(
    items: Vec<String>,
    work: impl Fn(String) -> F,
    done: impl Fn(),
) -> Result<Vec<T>, LoadError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, LoadError>> + Send + 'static,
{
    let mut results = Vec::with_capacity(items.len());
    let mut running = JoinSet::new();
    let mut items = items.into_iter();
    for item in items.by_ref().take(AT_A_TIME) {
        running.spawn(work(item));
    }
    while let Some(joined) = running.join_next().await {
        let result =
            joined.map_err(|error| LoadError::Protocol(format!("a worker ended: {error}")))?;
        results.push(result?);
        done();
        if let Some(item) = items.next() {
            running.spawn(work(item));
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_are_done_and_the_first_error_is_told() {
        let items = |count: usize| (0..count).map(|index| index.to_string()).collect();
        let doubled = spread(
            items(100),
            |item| async move { Ok(item.parse::<u64>().unwrap_or(0) * 2) },
            || {},
        );
        let mut found = doubled.await.unwrap();
        found.sort_unstable();
        assert_eq!(found, (0..100).map(|n| n * 2).collect::<Vec<_>>());
        let fiftieth = async |item: String| (item != "50").then_some(()).ok_or(item);
        let failing = spread(
            items(100),
            move |item| async move { fiftieth(item).await.map_err(LoadError::Target) },
            || {},
        );
        assert!(matches!(failing.await, Err(LoadError::Target(item)) if item == "50"));
    }
}
