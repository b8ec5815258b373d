import Foundation

/// The phases of a process's life that the budget predicts.
public enum Phase: String, Sendable {
    case load, prefill, decode
}

/// Samples a system's figure of this process's memory, in bytes, and keeps the largest of each phase.
public final class MemoryWatch: @unchecked Sendable {  // the lock guards what changes
    public let before: Int

    private let probe: @Sendable () -> Int
    private let lock = NSLock()
    private var phase = Phase.load
    private var largest: [String: Int] = [:]
    private var watching = true

    public init(probe: @escaping @Sendable () -> Int) {
        self.probe = probe
        before = probe()
        Thread.detachNewThread { [self] in
            while lock.withLock({ watching }) {
                sample()
                Thread.sleep(forTimeInterval: 0.05)
            }
        }
    }

    /// Phase → the largest sample.
    public var peaks: [String: Int] { lock.withLock { largest } }

    /// Sample once more for the phase that ends here, and start the next.
    public func enter(_ next: Phase) {
        sample()
        lock.withLock { phase = next }
    }

    public func stop() {
        lock.withLock { watching = false }
    }

    private func sample() {
        let now = probe()
        lock.withLock { largest[phase.rawValue] = max(largest[phase.rawValue] ?? 0, now) }
    }
}

/// What one run took: load, a prompt, and the tokens after it, which fill the context together.
public struct DeviceRun: Sendable {
    public let loadSeconds: Double
    public let outcome: Outcome
    public let memoryBefore: Int
    public let memoryPeaks: [String: Int]

    /// The run that a device report is about: open the model, give it a prompt that leaves `decoded` tokens of the
    /// context free, and let it fill those.
    ///
    /// - Parameters:
    ///   - probe: the system's figure of this process's memory, in bytes.
    ///   - open: opens the model.
    public static func measure(
        context: Int,
        tokenizer: Tokenizer,
        decoded: Int? = nil,
        probe: @escaping @Sendable () -> Int,
        open: () throws -> Session
    ) throws -> DeviceRun {
        let decoded = decoded ?? min(64, context / 2)
        let watch = MemoryWatch(probe: probe)
        defer { watch.stop() }
        let clock = ContinuousClock()
        let start = clock.now
        let session = try open()
        let loadSeconds = (clock.now - start) / .seconds(1)
        watch.enter(.prefill)
        let word = tokenizer.encode(" a")
        let prompt = Array(repeating: word, count: (context - decoded) / word.count).flatMap { $0 }
        var decoding = false
        let outcome = try session.generate(prompt, maxTokens: decoded + 1) { _ in
            if !decoding { watch.enter(.decode) }
            decoding = true
        }
        watch.enter(.decode)
        let before = watch.before
        return DeviceRun(loadSeconds: loadSeconds, outcome: outcome, memoryBefore: before, memoryPeaks: watch.peaks)
    }
}
