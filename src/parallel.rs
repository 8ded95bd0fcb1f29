//! Threads: how many to use, and the pool that runs chunks of work on them.
//!
//! The only file that knows threads, forks and thread counts. [`run_chunks`] is a fork-join: the
//! caller publishes a job, works on it itself, and returns when every chunk is done.
//!
//! **Protocol.** One atomic word ([`State`]) says all that matters about the current job: the
//! chunks that nobody has claimed, the workers that are inside, and how many may come in.
//!
//! | who | when | step (one atomic operation) |
//! |---|---|---|
//! | caller | `busy` is its own, nobody is inside | store: all chunks but its first are unclaimed |
//! | worker | a chunk is unclaimed and it has a seat | claim that chunk, `inside + 1` |
//! | caller, worker | its chunk is done, another is unclaimed | claim that one |
//! | worker | its chunk is done, none is left | `inside - 1` |
//! | caller | none is left | wait for `inside == 0`, then return |
//!
//! A worker that never came in is never waited for, and one that wakes up late finds no unclaimed
//! chunk, so it looks at nothing but the state word. Jobs live on the caller's stack; a worker holds
//! a reference to one only between coming in and leaving. The pool itself is never freed.
//!
//! **Sleep.** A worker that finds nothing to do spins for [`SPIN`], then parks; a caller that waits
//! for the last workers spins for [`CALLER_SPIN`], then sleeps. Nobody spins when there are more threads than CPUs. Only
//! sleeping workers are woken, which costs the caller one system call each.
//!
//! **Place.** A system may wake a worker on the caller's CPU, where it waits for milliseconds although another CPU
//! is idle (Linux does on virtual machines whose idle CPUs count as preempted). So whoever wakes a worker first
//! takes its own CPU out of the worker's affinity: two more system calls, when the caller's CPU is another one
//! than at the worker's last wake.
//!
//! **Fork.** Only the forking thread lives on in a child, and with it a copy of a pool that has no
//! workers. A handler forgets that pool; the child's next job makes a new one.
#![expect(unsafe_code, reason = "jobs are borrowed from the caller's stack; libc calls")]

use std::any::Any;
use std::cell::Cell;
use std::hint;
use std::mem;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The most threads that a job uses, whatever is asked for.
const MAX_THREADS: usize = 256;
/// How long a worker that waits for a job spins before it sleeps.
const SPIN: Duration = Duration::from_micros(30);
/// How long a caller that waits for the last workers spins before it sleeps: as long as a chunk takes, for to be
/// woken is dear, and may end on the worker's CPU.
const CALLER_SPIN: Duration = Duration::from_micros(250);
/// Stack of a worker: kernels keep their scratch on the heap.
const STACK_BYTES: usize = 512 * 1024;

// ---------------------------------------------------------------------------------------------
// Thread counts
// ---------------------------------------------------------------------------------------------

thread_local! {
    /// What `set_thread_override` set for this thread; 0: nothing.
    static OVERRIDE: Cell<usize> = const { Cell::new(0) };
}
/// What `set_num_threads` set; 0: nothing.
static NUM_THREADS: AtomicUsize = AtomicUsize::new(0);
/// What the environment asks for, else the CPUs; 0: not yet known.
static DEFAULT_THREADS: AtomicUsize = AtomicUsize::new(0);
/// The CPUs that this process may use; 0: not yet known.
static CPUS: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that an operation called from this thread may use.
///
/// The first that is set: [`set_thread_override`], [`set_num_threads`], the environment variables
/// `LOGITKIT_NUM_THREADS` and `OMP_NUM_THREADS` (an invalid value is ignored), and the number of
/// CPUs that this process may use.
pub fn get_num_threads() -> usize {
    let explicit = match OVERRIDE.get() {
        0 => NUM_THREADS.load(Relaxed),
        n => n,
    };
    match explicit {
        0 => cached(&DEFAULT_THREADS, || {
            ["LOGITKIT_NUM_THREADS", "OMP_NUM_THREADS"]
                .iter()
                .find_map(|name| parse_count(&std::env::var(name).ok()?))
                .unwrap_or_else(cpus)
        }),
        n => n,
    }
}

/// Sets the number of threads for the whole process, until the next call.
///
/// # Panics
/// If `n` is 0.
pub fn set_num_threads(n: usize) {
    assert!(n >= 1, "the number of threads must be at least 1, not 0");
    NUM_THREADS.store(n, Relaxed);
}

/// Sets (or, with `None`, removes) a number of threads for operations called from this thread,
/// and returns the former one.
///
/// # Panics
/// If `n` is `Some(0)`.
pub fn set_thread_override(n: Option<usize>) -> Option<usize> {
    assert!(n != Some(0), "the number of threads must be at least 1, not 0");
    let former = OVERRIDE.replace(n.unwrap_or(0));
    (former != 0).then_some(former)
}

/// A thread count as OpenMP writes it: a positive number, or a list of them by nesting level.
fn parse_count(text: &str) -> Option<usize> {
    let n = text.split(',').next()?.trim().parse().ok()?;
    (n >= 1).then_some(n)
}

/// The CPUs of this process by affinity and quota. Asking takes 0.1 ms, so once.
fn cpus() -> usize {
    cached(&CPUS, || thread::available_parallelism().map_or(1, NonZero::get))
}

/// `cell`, computed on first use. No lock: a fork may come at any time. Twice is harmless.
fn cached(cell: &AtomicUsize, compute: impl FnOnce() -> usize) -> usize {
    match cell.load(Relaxed) {
        0 => {
            let value = compute();
            cell.store(value, Relaxed);
            value
        }
        value => value,
    }
}

// ---------------------------------------------------------------------------------------------
// The state word
// ---------------------------------------------------------------------------------------------

/// The state of the current job, packed so that each step of the protocol is one atomic operation:
/// `seats` (from bit 52), `awaited` (bit 51), `inside` (from bit 40), `unclaimed` (from bit 0).
#[derive(Clone, Copy)]
struct State(u64);

impl State {
    const ONE_SEAT: u64 = 1 << 52;
    const AWAITED: u64 = 1 << 51;
    const ONE_INSIDE: u64 = 1 << 40;
    const INSIDE: u64 = Self::AWAITED - Self::ONE_INSIDE;
    const UNCLAIMED: u64 = Self::ONE_INSIDE - 1;

    /// No chunk is claimed, nobody is inside.
    fn new(seats: usize, unclaimed: usize) -> Self {
        State(seats as u64 * Self::ONE_SEAT + unclaimed as u64)
    }
    /// The chunks that nobody has claimed.
    fn unclaimed(self) -> usize {
        (self.0 & Self::UNCLAIMED) as usize
    }
    /// Whether worker `index`, who is outside, may claim a chunk.
    fn admits(self, index: usize) -> bool {
        self.unclaimed() > 0 && (index as u64) < self.0 / Self::ONE_SEAT
    }
    /// Whether a worker is inside.
    fn is_occupied(self) -> bool {
        self.0 & Self::INSIDE != 0
    }
    /// Whether the caller sleeps until nobody is inside.
    fn is_awaited(self) -> bool {
        self.0 & Self::AWAITED != 0
    }
    /// One unclaimed chunk less.
    fn claim(self) -> Self {
        State(self.0 - 1)
    }
    /// One worker more inside.
    fn enter(self) -> Self {
        State(self.0 + Self::ONE_INSIDE)
    }
    /// One worker less inside.
    fn leave(self) -> Self {
        State(self.0 - Self::ONE_INSIDE)
    }
}

// ---------------------------------------------------------------------------------------------
// The pool
// ---------------------------------------------------------------------------------------------

/// One call of [`run_chunks`], on its caller's stack.
struct Job<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    chunks: usize,
    /// The first panic.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What the others know of a worker, on cache lines of its own.
#[repr(align(128))]
struct Worker {
    /// Parked, or about to be: whoever publishes a job must wake it.
    asleep: AtomicBool,
    /// Unset until the worker is spawned.
    thread: OnceLock<(Thread, Place)>,
}

/// Made on first use, never freed.
#[repr(align(128))]
struct Pool {
    /// A [`State`].
    state: AtomicU64,
    /// The current job; valid while somebody is inside.
    job: AtomicPtr<Job<'static>>,
    /// Whether waiting threads may spin.
    spin: AtomicBool,
    /// Held by the caller whose job it is.
    busy: AtomicBool,
    /// Workers spawned so far.
    spawned: AtomicUsize,
    /// Where the caller sleeps until nobody is inside.
    mutex: Mutex<()>,
    nobody_inside: Condvar,
    workers: [Worker; MAX_THREADS - 1],
}

/// The pool of this process; null until the first job, and again in a forked child.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(ptr::null_mut());

/// Runs `work(i)` for each `i` in `0..chunks` exactly once, on the caller and on up to
/// `threads - 1` workers; returns when all are done.
///
/// Chunks are claimed one by one, in ascending order. While another call is under way, and inside
/// `work`, everything runs on the caller. A panic in `work` cancels the chunks that are not yet
/// claimed and goes on in the caller.
pub(crate) fn run_chunks(chunks: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) {
    if chunks.min(threads) > 1 {
        Pool::get().run_chunks(chunks, threads.min(MAX_THREADS), work);
    } else {
        (0..chunks).for_each(work);
    }
}

impl Pool {
    /// The pool of this process.
    fn get() -> &'static Pool {
        let mut pool = POOL.load(Acquire);
        if pool.is_null() {
            forget_pool_in_forked_children();
            let new = Box::into_raw(Box::new(Pool::new()));
            pool = match POOL.compare_exchange(ptr::null_mut(), new, AcqRel, Acquire) {
                Ok(_) => new,
                Err(other) => {
                    // SAFETY: `new` came from `Box::into_raw` and nobody else has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    other
                }
            };
        }
        // SAFETY: not null, so it came from `Box::into_raw` above, and a pool that was stored in
        // `POOL` is never freed.
        unsafe { &*pool }
    }

    fn new() -> Self {
        Pool {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            spin: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            spawned: AtomicUsize::new(0),
            mutex: Mutex::new(()),
            nobody_inside: Condvar::new(),
            workers: [const { Worker { asleep: AtomicBool::new(false), thread: OnceLock::new() } };
                MAX_THREADS - 1],
        }
    }

    /// [`run_chunks`] with more than one chunk and thread.
    fn run_chunks(&'static self, chunks: usize, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        assert!(chunks as u64 <= State::UNCLAIMED, "too many chunks: {chunks}");
        if self.busy.swap(true, Acquire) {
            return (0..chunks).for_each(work);
        }
        let job = Job { work, chunks, panic: Mutex::new(None) };
        self.run_job(&job, threads);
        self.busy.store(false, Release);
        if let Some(payload) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// Runs all chunks of a job. Only for the caller that holds `busy`.
    fn run_job(&'static self, job: &Job<'_>, threads: usize) {
        let seats = threads.min(job.chunks) - 1;
        self.spawn_up_to(seats);
        self.spin.store(threads <= cpus(), Relaxed);
        self.job.store(ptr::from_ref(job).cast_mut().cast(), Relaxed);

        // From here to the end workers may hold a reference to the job: nothing may unwind.
        let mut before = State::new(seats, job.chunks);
        // SeqCst here, in `wake` and in `sleep`: either a worker sees this job before it parks, or
        // it is seen asleep and woken.
        self.state.store(before.claim().0, SeqCst);
        self.wake(seats);
        loop {
            self.run_chunk(job, before);
            let claimed = self.step(|state| (state.unclaimed() > 0).then(|| state.claim()));
            let Ok(state) = claimed else { break };
            before = state;
        }
        self.wait_until_nobody_is_inside();
    }

    /// One atomic step of the protocol, if it is possible: the state before it.
    fn step(&self, step: impl Fn(State) -> Option<State>) -> Result<State, State> {
        let step = |state| step(State(state)).map(|next| next.0);
        self.state.fetch_update(AcqRel, Acquire, step).map(State).map_err(State)
    }

    /// Runs the chunk that was claimed from `before`. Does not unwind.
    fn run_chunk(&self, job: &Job<'_>, before: State) {
        let chunk = job.chunks - before.unclaimed();
        let Err(payload) = catch_unwind(AssertUnwindSafe(|| (job.work)(chunk))) else {
            return;
        };
        self.state.fetch_and(!State::UNCLAIMED, AcqRel);
        let mut first = lock(&job.panic);
        match *first {
            None => *first = Some(payload),
            Some(_) => mem::forget(payload), // dropping it might panic
        }
    }

    /// Returns when all workers have left, and with them all references to the job.
    fn wait_until_nobody_is_inside(&self) {
        let done = || !State(self.state.load(Acquire)).is_occupied();
        // No yielding: another program could take the CPU for milliseconds.
        if self.spin_until(CALLER_SPIN, done, hint::spin_loop) {
            return;
        }
        let mut guard = lock(&self.mutex);
        self.state.fetch_or(State::AWAITED, AcqRel);
        while !done() {
            guard = self.nobody_inside.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Spins for `longest` at most, with a `pause` now and then, or not at all where that is
    /// forbidden; returns `done()`.
    fn spin_until(&self, longest: Duration, done: impl Fn() -> bool, pause: fn()) -> bool {
        if done() {
            return true;
        }
        if !self.spin.load(Relaxed) {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                hint::spin_loop();
                if done() {
                    return true;
                }
            }
            if start.elapsed() >= longest {
                return false;
            }
            pause();
        }
    }

    /// Spawns workers until there are `count`, or as many as the system grants. Only for the
    /// caller that holds `busy`.
    fn spawn_up_to(&'static self, count: usize) {
        for index in self.spawned.load(Relaxed)..count {
            let builder =
                thread::Builder::new().name(format!("logitkit-{}", index + 1)).stack_size(STACK_BYTES);
            let spawned = with_signals_blocked(|| builder.spawn(move || self.serve(index)));
            let Ok(handle) = spawned else { break };
            self.workers[index].thread.get_or_init(|| (handle.thread().clone(), Place::of(&handle)));
            self.spawned.store(index + 1, Relaxed);
            // Dropping the handle detaches the worker.
        }
    }

    /// Wakes those of the first `count` workers that sleep, as long as there is a chunk for them.
    fn wake(&self, count: usize) {
        let cpu = if self.spin.load(Relaxed) { current_cpu() } else { None };
        for worker in self.workers.iter().take(count) {
            if !worker.asleep.load(SeqCst) {
                continue;
            }
            if State(self.state.load(Relaxed)).unclaimed() == 0 {
                break;
            }
            // Before the unpark: the worker says so again when it goes back to sleep.
            worker.asleep.store(false, Relaxed);
            if let Some((thread, place)) = worker.thread.get() {
                if let Some(cpu) = cpu {
                    place.leave_out(cpu);
                }
                thread.unpark();
            }
        }
    }

    /// A worker's life.
    fn serve(&self, index: usize) {
        loop {
            let entered = self.step(|state| state.admits(index).then(|| state.claim().enter()));
            match entered {
                Ok(before) => self.take_part(before),
                Err(_) => self.sleep(index),
            }
        }
    }

    /// What a worker does from coming in, with the chunk claimed from `before`, to leaving.
    fn take_part(&self, mut before: State) {
        // SAFETY: this worker is inside. So the caller, who waits until nobody is, has not
        // returned, and its job is alive; the job was stored before the state that let this
        // worker in. Nothing below uses the job after leaving.
        let job = unsafe { &*self.job.load(Relaxed) };
        while before.unclaimed() > 0 {
            self.run_chunk(job, before);
            let next = |state: State| Some(if state.unclaimed() > 0 { state.claim() } else { state.leave() });
            let (Ok(state) | Err(state)) = self.step(next);
            before = state;
        }
        if before.is_awaited() && !before.leave().is_occupied() {
            // The caller sleeps, or holds the mutex until it does.
            drop(lock(&self.mutex));
            self.nobody_inside.notify_one();
        }
    }

    /// Returns when there may be a chunk for this worker.
    fn sleep(&self, index: usize) {
        let admitted = || State(self.state.load(Acquire)).admits(index);
        // Yielding: a worker that the system woke on the caller's CPU must not keep it.
        if self.spin_until(SPIN, admitted, thread::yield_now) {
            return;
        }
        let worker = &self.workers[index];
        loop {
            worker.asleep.store(true, SeqCst);
            if State(self.state.load(SeqCst)).admits(index) {
                break;
            }
            thread::park();
        }
        worker.asleep.store(false, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---------------------------------------------------------------------------------------------
// The operating system
// ---------------------------------------------------------------------------------------------

/// Makes every child forked from now on start without a pool. Takes no lock: twice is harmless.
fn forget_pool_in_forked_children() {
    #[cfg(unix)]
    {
        static DONE: AtomicBool = AtomicBool::new(false);

        extern "C" fn forget_pool() {
            POOL.store(ptr::null_mut(), Relaxed);
        }
        if !DONE.load(Acquire) {
            // SAFETY: the handler only stores to an atomic, which is async-signal-safe. Should
            // registering fail (no memory), a child at worst computes on one thread.
            unsafe { libc::pthread_atfork(None, None, Some(forget_pool)) };
            DONE.store(true, Release);
        }
    }
}

/// The CPU that this thread runs on, where it can be taken out of an affinity.
fn current_cpu() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the call has no conditions.
        let cpu = unsafe { libc::sched_getcpu() };
        usize::try_from(cpu).ok().filter(|&cpu| cpu < libc::CPU_SETSIZE as usize)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Where a worker may run.
struct Place {
    #[cfg(target_os = "linux")]
    thread: std::os::unix::thread::RawPthread,
    #[cfg(target_os = "linux")]
    given: Mutex<Option<Box<Given>>>,
}

/// The CPU that was taken out of a worker's affinity, and the affinity before and after that.
#[cfg(target_os = "linux")]
struct Given {
    cpu: usize,
    before: libc::cpu_set_t,
    after: libc::cpu_set_t,
}

#[cfg(not(target_os = "linux"))]
impl Place {
    fn of(_: &thread::JoinHandle<()>) -> Self {
        Place {}
    }
    fn leave_out(&self, _cpu: usize) {}
}

#[cfg(target_os = "linux")]
impl Place {
    /// For a worker, which never ends.
    fn of<T>(handle: &thread::JoinHandle<T>) -> Self {
        use std::os::unix::thread::JoinHandleExt;
        Place { thread: handle.as_pthread_t(), given: Mutex::new(None) }
    }

    /// Takes a CPU from the worker and gives it back the former one. Does nothing when that would leave none, or
    /// when the system refuses. An affinity that somebody else has set since is respected.
    fn leave_out(&self, cpu: usize) {
        const SIZE: usize = size_of::<libc::cpu_set_t>();
        let mut given = lock(&self.given);
        if given.as_ref().is_some_and(|given| given.cpu == cpu) {
            return;
        }
        let mut now = mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: a worker's thread never ends; the set has that size.
        if unsafe { libc::pthread_getaffinity_np(self.thread as libc::pthread_t, SIZE, now.as_mut_ptr()) }
            != 0
        {
            return;
        }
        // SAFETY: it was all zeros, an empty set, before the call.
        let now = unsafe { now.assume_init() };
        let before = match &*given {
            // SAFETY: reads the sets.
            Some(given) if unsafe { libc::CPU_EQUAL(&given.after, &now) } => given.before,
            _ => now,
        };
        let mut after = before;
        // SAFETY: `cpu` is in the range of a set.
        unsafe { libc::CPU_CLR(cpu, &mut after) };
        // SAFETY: reads the set.
        if unsafe { libc::CPU_COUNT(&after) } == 0 {
            after = now;
        }
        // SAFETY: as for the first call.
        if unsafe { libc::pthread_setaffinity_np(self.thread as libc::pthread_t, SIZE, &raw const after) }
            == 0
        {
            *given = Some(Box::new(Given { cpu, before, after }));
        }
    }
}

/// Calls `spawn` with all signals blocked but those that report an error of the thread itself, so
/// that the thread it spawns never runs a handler of the host program.
fn with_signals_blocked<R>(spawn: impl FnOnce() -> R) -> R {
    #[cfg(unix)]
    {
        use std::mem::MaybeUninit;

        let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is valid for a write; the call initialises the set.
        unsafe { libc::sigfillset(blocked.as_mut_ptr()) };
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP] {
            // SAFETY: `blocked` was initialised above; the signal numbers are valid.
            unsafe { libc::sigdelset(blocked.as_mut_ptr(), signal) };
        }
        let mut former = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both pointers are valid; the call reads `blocked` and initialises `former`. It
        // cannot fail: `SIG_BLOCK` is a valid request.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), former.as_mut_ptr()) };
        let result = spawn();
        // SAFETY: `former` was initialised by the call above; the last pointer may be null.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, former.as_ptr(), ptr::null_mut()) };
        result
    }
    #[cfg(not(unix))]
    spawn()
}

// Tried and lost: no spinning on the caller's CPU (by `sched_getcpu`: the worker then never moves to
// a CPU of its own); the worker moving away by affinity (it has to run before it can);
// yielding while the caller waits (up to a time slice lost to another program).

#[cfg(test)]
mod tests;
