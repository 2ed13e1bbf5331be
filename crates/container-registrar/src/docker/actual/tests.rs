//! What the observer asks for next, and when.

use super::*;
use bollard::models::EventActor;

fn observer() -> (EngineObserver, mpsc::Receiver<Observation>) {
    let (sender, receiver) = mpsc::channel(9);
    (EngineObserver::new(UNIX_EPOCH, sender), receiver)
}

fn list_with_a_task() -> Result<EngineAnswer, EngineError> {
    Ok(EngineAnswer::Listed(ListedContainers {
        ids: vec!["0f".to_owned()],
        tasks: true,
    }))
}

#[tokio::test]
async fn services_are_asked_for_after_all_containers_are_known() {
    let (mut observer, _receiver) = observer();
    assert!(observer.answered(Job::List, list_with_a_task()).await.unwrap());
    let now = Instant::now();
    for expected in [
        Some(Job::Inspect("0f".to_owned())),
        Some(Job::InSync),
        Some(Job::Services),
        None,
    ] {
        assert_eq!(observer.next_job(now), expected);
    }
}

#[tokio::test]
async fn an_event_during_a_look_lets_the_list_wait_for_another_look() {
    let (mut observer, mut receiver) = observer();
    observer.known.insert("0f".to_owned());
    assert!(observer.answered(Job::List, list_with_a_task()).await.unwrap());
    let now = Instant::now();
    let look = Job::Inspect("0f".to_owned());
    assert_eq!(observer.next_job(now).as_ref(), Some(&look));
    let event = EventMessage {
        typ: Some(EventMessageTypeEnum::CONTAINER),
        actor: Some(EventActor {
            id: Some("0f".to_owned()),
            attributes: None,
        }),
        ..EventMessage::default()
    };
    assert!(observer.take(event, Some(&look)).await);
    // What was found may be older than the event.
    let found = Ok(EngineAnswer::Inspected(None));
    assert!(observer.answered(look.clone(), found).await.unwrap());
    assert!(receiver.try_recv().is_err());
    for expected in [look, Job::InSync, Job::Services] {
        assert_eq!(observer.next_job(now), Some(expected));
    }
}

#[tokio::test]
async fn events_that_never_rest_do_not_delay_the_list_for_ever() {
    let (mut observer, mut receiver) = observer();
    assert!(observer.answered(Job::List, list_with_a_task()).await.unwrap());
    let (now, look) = (Instant::now(), Job::Inspect("0f".to_owned()));
    for discarded in 0..=MOST_DISCARDED {
        assert_eq!(observer.next_job(now).as_ref(), Some(&look), "{discarded}");
        assert!(receiver.try_recv().is_err(), "{discarded}");
        observer.touched = true;
        let found = Ok(EngineAnswer::Inspected(None));
        assert!(observer.answered(look.clone(), found).await.unwrap());
    }
    assert!(matches!(receiver.try_recv(), Ok(Observation::Gone(_))));
    for expected in [Job::InSync, look] {
        assert_eq!(observer.next_job(now), Some(expected));
    }
}

#[tokio::test]
async fn services_that_the_engine_does_not_list_are_no_trouble() {
    for answer in [
        Err(EngineError::Gone("no answer within 5s".to_owned())),
        Err(EngineError::Refused("no JSON".to_owned())),
        Ok(EngineAnswer::Services(None)),
    ] {
        let (mut observer, mut receiver) = observer();
        assert!(observer.answered(Job::Services, answer).await.unwrap());
        let observed = receiver.try_recv().unwrap();
        assert!(
            matches!(&observed, Observation::Services(none) if none.is_empty()),
            "{observed:?}"
        );
        (observer.services.wanted, observer.services.in_sync) = (true, true);
        assert_eq!(observer.next_job(Instant::now()), None);
    }
}

#[tokio::test]
async fn any_number_of_events_asks_for_the_services_once_in_a_while() {
    let (mut observer, _receiver) = observer();
    let event = EventMessage {
        typ: Some(EventMessageTypeEnum::CONTAINER),
        actor: Some(EventActor {
            id: Some("0f".to_owned()),
            attributes: Some(
                [("com.docker.swarm.service.id".to_owned(), "s".to_owned())]
                    .into_iter()
                    .collect(),
            ),
        }),
        ..EventMessage::default()
    };
    let begun = Instant::now();
    // Before the first list.
    assert!(observer.take(event.clone(), None).await);
    assert_eq!(observer.next_job(begun), None);
    observer.services.in_sync = true;
    for (after, expected) in [
        (Duration::ZERO, Some(Job::Services)),
        (Duration::from_secs(1), None),
        (SERVICES_REST, Some(Job::Services)),
    ] {
        for _ in 0..3 {
            assert!(observer.take(event.clone(), None).await);
        }
        assert_eq!(observer.next_job(begun + after), expected, "{after:?}");
        assert_eq!(observer.next_job(begun + after), None, "{after:?}");
    }
}

fn refused() -> Result<EngineAnswer, EngineError> {
    Err(EngineError::Refused("500".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_container_that_the_engine_does_not_describe_is_soon_asked_for_again() {
    let (mut observer, mut receiver) = observer();
    let listed = ListedContainers {
        ids: vec!["0f".to_owned()],
        tasks: false,
    };
    let listed = Ok(EngineAnswer::Listed(listed));
    assert!(observer.answered(Job::List, listed).await.unwrap());
    let look = Job::Inspect("0f".to_owned());
    // The second time at once, before the list counts as looked at.
    for _ in 0..2 {
        assert_eq!(observer.next_job(Instant::now()).as_ref(), Some(&look));
        assert!(observer.answered(look.clone(), refused()).await.unwrap());
        let observed = receiver.try_recv().unwrap();
        assert!(
            matches!(observed, Observation::Container(_, Err(_))),
            "{observed:?}"
        );
    }
    assert_eq!(observer.next_job(Instant::now()), Some(Job::InSync));
    // Then after a pause, which grows as far as to that of a ping.
    for _ in 0..20 {
        let now = Instant::now();
        let at = observer.undescribed_at().unwrap();
        assert!(at > now && at <= now + PING, "{:?}", at - now);
        assert_eq!(observer.next_job(now), None);
        assert_eq!(observer.next_job(at).as_ref(), Some(&look));
        // It is on its way.
        assert_eq!((observer.undescribed_at(), observer.next_job(at)), (None, None));
        assert!(observer.answered(look.clone(), refused()).await.unwrap());
        receiver.try_recv().unwrap();
    }
    // Until there is an answer.
    let found = Ok(EngineAnswer::Inspected(None));
    assert!(observer.answered(look, found).await.unwrap());
    assert!(matches!(receiver.try_recv(), Ok(Observation::Gone(_))));
    assert_eq!(observer.undescribed_at(), None);
}
