//! Every chunk once, whatever sleeps, panics, nests, forks or comes at the same time.

use super::*;
use std::collections::HashSet;

const LONG: Duration = Duration::from_secs(30);

fn private_pool() -> &'static Pool {
    Box::leak(Box::new(Pool::new()))
}

/// Runs a job with `run(chunks, work)` and asserts that each chunk ran once.
fn check(chunks: usize, run: impl Fn(usize, &(dyn Fn(usize) + Sync))) {
    let counts: Vec<_> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
    run(chunks, &|i| {
        counts[i].fetch_add(1, Relaxed);
    });
    assert!(counts.iter().all(|n| n.load(Relaxed) == 1), "{chunks} chunks: {counts:?}");
}

/// Runs `threads` chunks that wait for each other, so that each needs a thread of its own, and
/// returns the names of those threads.
fn meet(pool: &'static Pool, threads: usize) -> HashSet<Option<String>> {
    let (here, names) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
    let start = Instant::now();
    pool.run_chunks(threads, threads, &|_| {
        lock(&names).insert(thread::current().name().map(str::to_owned));
        here.fetch_add(1, SeqCst);
        while here.load(SeqCst) < threads {
            assert!(start.elapsed() < LONG, "a worker did not come");
            thread::yield_now();
        }
    });
    names.into_inner().unwrap()
}

#[test]
fn every_chunk_runs_once() {
    for threads in [0, 1, 2, 3, 8, MAX_THREADS + 9] {
        for chunks in [0, 1, 2, 3, 7, 64, 1000] {
            check(chunks, |chunks, work| run_chunks(chunks, threads, work));
        }
    }
}

#[test]
fn the_pool_grows_and_wakes_all_it_needs() {
    let pool = private_pool();
    let mut sizes = vec![2, 5, 3, 9];
    sizes.extend([2, 4].repeat(200));
    for threads in sizes {
        let names = meet(pool, threads);
        assert_eq!(names.len(), threads);
        for i in 1..threads {
            assert!(names.contains(&Some(format!("logitkit-{i}"))), "{names:?}");
        }
        if threads == 4 {
            thread::sleep(Duration::from_micros(100)); // some jobs find spinning workers
        }
    }
    assert_eq!(pool.spawned.load(Relaxed), 8);
}

#[test]
fn no_more_threads_than_asked() {
    let pool = private_pool();
    meet(pool, 6);
    for _ in 0..200 {
        let ids = Mutex::new(HashSet::new());
        pool.run_chunks(50, 2, &|_| {
            lock(&ids).insert(thread::current().id());
            thread::yield_now();
        });
        assert!(ids.into_inner().unwrap().len() <= 2);
    }
}

#[test]
fn a_nested_call_runs_on_its_caller() {
    let pool = private_pool();
    pool.run_chunks(4, 2, &|_| {
        let outer = thread::current().id();
        check(5, |chunks, work| {
            pool.run_chunks(chunks, 2, &|i| {
                assert_eq!(thread::current().id(), outer);
                work(i);
            });
        });
    });
}

#[test]
fn callers_at_the_same_time() {
    let pool = private_pool();
    thread::scope(|scope| {
        for threads in 2..6 {
            scope.spawn(move || {
                for chunks in 2..2000 {
                    check(chunks % 17 + 2, |chunks, work| pool.run_chunks(chunks, threads, work));
                }
            });
        }
    });
}

#[test]
fn a_panic_goes_on_in_the_caller() {
    let pool = private_pool();
    for bad in (0..8).cycle().take(64) {
        let ran = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run_chunks(8, 3, &|i| {
                ran.fetch_add(1, Relaxed);
                if i == bad {
                    resume_unwind(Box::new(i)); // a panic without its message
                }
            });
        }));
        assert_eq!(*result.unwrap_err().downcast::<usize>().unwrap(), bad);
        assert!((bad + 1..=8).contains(&ran.load(Relaxed)));
        check(8, |chunks, work| pool.run_chunks(chunks, 3, work));
    }
}

#[test]
fn all_chunks_panic() {
    let pool = private_pool();
    let result = catch_unwind(|| pool.run_chunks(100, 4, &|i| resume_unwind(Box::new(i))));
    assert!(result.is_err());
    check(100, |chunks, work| pool.run_chunks(chunks, 4, work));
}

#[test]
fn many_small_jobs() {
    let pool = private_pool();
    let sum = AtomicUsize::new(0);
    for job in 0..100_000 {
        let local = job; // on this stack frame: gone when a late worker looks
        pool.run_chunks(2 + job % 3, 2 + job % 2, &|i| {
            sum.fetch_add(local + i, Relaxed);
        });
    }
    let expected: usize = (0..100_000).map(|job| (0..2 + job % 3).map(|i| job + i).sum::<usize>()).sum();
    assert_eq!(sum.into_inner(), expected);
}

#[test]
fn the_caller_sleeps_until_a_slow_worker_is_done() {
    let pool = private_pool();
    let caller = thread::current().id();
    for _ in 0..20 {
        let done = AtomicUsize::new(0);
        let start = Instant::now();
        pool.run_chunks(2, 2, &|_| {
            if thread::current().id() == caller {
                // Leave the other chunk to the worker.
                while State(pool.state.load(Acquire)).unclaimed() > 0 {
                    assert!(start.elapsed() < LONG, "the worker did not come");
                    thread::yield_now();
                }
            } else {
                thread::sleep(Duration::from_millis(2));
            }
            done.fetch_add(1, Relaxed);
        });
        assert_eq!(done.into_inner(), 2);
    }
}

#[test]
fn counts() {
    assert_eq!(parse_count("3"), Some(3));
    assert_eq!(parse_count(" 4,2 "), Some(4));
    assert_eq!(parse_count("100000"), Some(100_000));
    for invalid in ["", "0", "-1", "two", "1.5", ",2", "99999999999999999999999"] {
        assert_eq!(parse_count(invalid), None, "{invalid:?}");
    }

    assert!(get_num_threads() >= 1);
    set_num_threads(5);
    assert_eq!(set_thread_override(Some(3)), None);
    assert_eq!(get_num_threads(), 3);
    assert_eq!(thread::spawn(get_num_threads).join().unwrap(), 5);
    assert_eq!(set_thread_override(Some(100_000)), Some(3));
    assert_eq!(get_num_threads(), 100_000);
    assert_eq!(set_thread_override(None), Some(100_000));
    assert_eq!(get_num_threads(), 5);
    NUM_THREADS.store(0, Relaxed);
    assert!(catch_unwind(|| set_num_threads(0)).is_err());
    assert!(catch_unwind(|| set_thread_override(Some(0))).is_err());
}

#[cfg(unix)]
#[test]
fn workers_block_signals() {
    let blocked = |signal| {
        let mut mask = mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: with a null set the call only writes the current mask to `mask`.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr()) };
        // SAFETY: `mask` was initialised by the call above.
        unsafe { libc::sigismember(mask.as_ptr(), signal) == 1 }
    };
    let pool = private_pool();
    let caller = thread::current().id();
    let before = blocked(libc::SIGINT);
    let wrong = AtomicUsize::new(0);
    let here = AtomicUsize::new(0);
    pool.run_chunks(2, 2, &|_| {
        here.fetch_add(1, SeqCst);
        while here.load(SeqCst) < 2 {
            thread::yield_now();
        }
        if thread::current().id() != caller {
            let right = blocked(libc::SIGINT) && blocked(libc::SIGTERM) && !blocked(libc::SIGSEGV);
            wrong.fetch_add(usize::from(!right), Relaxed);
        }
    });
    assert_eq!(wrong.into_inner(), 0);
    assert_eq!(blocked(libc::SIGINT), before);
}

#[cfg(unix)]
#[test]
fn a_forked_child_computes() {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                check(9, |chunks, work| run_chunks(chunks, 3, work));
            }
        });
        for _ in 0..50 {
            check(100, |chunks, work| run_chunks(chunks, 4, work));
            // SAFETY: the child calls nothing that needs a lock another thread may have held
            // at the fork but the allocator's, which libc makes safe.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: no memory is involved. A child that hangs is ended by the signal.
                unsafe { libc::alarm(20) };
                let result = catch_unwind(|| {
                    meet(Pool::get(), 3);
                    check(1000, |chunks, work| run_chunks(chunks, 4, work));
                });
                // SAFETY: ends the child here; no memory is involved.
                unsafe { libc::_exit(i32::from(result.is_err())) };
            }
            assert!(child > 0, "fork failed");
            let mut status = -1;
            // SAFETY: `status` is valid for the write.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!((waited, status), (child, 0), "the child hung or failed");
        }
        stop.store(true, Relaxed);
    });
}

/// A worker's affinity lacks the caller's CPU, gets it back, and stays what somebody else has made it.
#[cfg(target_os = "linux")]
#[test]
fn affinity_without_one_cpu() {
    use std::os::unix::thread::{JoinHandleExt, RawPthread};

    fn affinity(thread: RawPthread) -> Vec<usize> {
        let mut set = mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: the thread lives; the size is the set's, which all zeros are a valid value of.
        let set = unsafe {
            libc::pthread_getaffinity_np(
                thread as libc::pthread_t,
                size_of::<libc::cpu_set_t>(),
                set.as_mut_ptr(),
            );
            set.assume_init()
        };
        // SAFETY: the numbers are in the range of a set.
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
    }
    fn restrict(thread: RawPthread, cpu: usize) {
        let mut set = mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: as above.
        unsafe {
            libc::CPU_SET(cpu, set.assume_init_mut());
            libc::pthread_setaffinity_np(
                thread as libc::pthread_t,
                size_of::<libc::cpu_set_t>(),
                set.as_ptr(),
            );
        }
    }
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = thread::spawn(move || stopped.recv().unwrap_err());
    let (place, id) = (Place::of(&thread), thread.as_pthread_t());
    let all = affinity(id);
    if let [first, second, ..] = all[..] {
        let without = |cpu: usize| all.iter().copied().filter(|&other| other != cpu).collect::<Vec<_>>();
        place.leave_out(first);
        assert_eq!(affinity(id), without(first));
        place.leave_out(first);
        assert_eq!(affinity(id), without(first));
        place.leave_out(second);
        assert_eq!(affinity(id), without(second));
        // To leave out the second one would leave none.
        restrict(id, second);
        place.leave_out(first);
        assert_eq!(affinity(id), [second]);
        place.leave_out(second);
        assert_eq!(affinity(id), [second]);
    } else {
        place.leave_out(all[0]);
        assert_eq!(affinity(id), all);
    }
    drop(stop);
    thread.join().unwrap();
}
