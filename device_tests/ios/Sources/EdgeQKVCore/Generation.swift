/// Why a generation ended.
public enum StopReason: String, Sendable {
    case endOfText = "end_of_text"
    case maxTokens = "max_tokens"
    case contextFull = "context_full"
    case stopped
}

/// Tokens fed, and how long that took.
public struct Run: Codable, Equatable, Sendable {
    public let tokens: Int
    public let seconds: Double

    public var tokensPerSecond: Double { Double(tokens) / seconds }

    public init(tokens: Int, seconds: Double) {
        self.tokens = tokens
        self.seconds = seconds
    }
}

/// What a generation did: the prompt's run, the run of the tokens after it, and why it ended.
public struct Outcome: Sendable {
    public let prefill: Run
    public let decode: Run
    public let stopped: StopReason
}

extension Session {
    /// Continue a prompt, telling each token as it is chosen. `goOn` is asked before every call of the model.
    ///
    /// - Parameters:
    ///   - maxTokens: tokens to generate at most; nil: until the context is full.
    ///   - random: random numbers of [0, 1).
    public func generate(
        _ prompt: [Int],
        maxTokens: Int? = nil,
        sampling: Sampling = .greedy,
        eosTokenIDs: Set<Int> = [],
        random: () -> Double = { .random(in: 0..<1) },
        goOn: () -> Bool = { true },
        onToken: (Int) throws -> Void
    ) throws -> Outcome {
        let clock = ContinuousClock()
        let start = clock.now
        var logits = try feed(prompt)
        let prefilled = clock.now
        var generated = 0
        var decoded = 0
        var last: Int?
        func ended(_ reason: StopReason) -> Outcome {
            Outcome(
                prefill: Run(tokens: prompt.count, seconds: (prefilled - start) / .seconds(1)),
                decode: Run(tokens: decoded, seconds: (clock.now - prefilled) / .seconds(1)),
                stopped: reason
            )
        }
        while true {
            if generated == maxTokens { return ended(.maxTokens) }
            if let token = last {
                if position >= context { return ended(.contextFull) }
                if !goOn() { return ended(.stopped) }
                logits = try feed([token])
                decoded += 1
            }
            let token = sampling.pick(logits, uniform: random())
            if eosTokenIDs.contains(token) { return ended(.endOfText) }
            try onToken(token)
            generated += 1
            last = token
        }
    }
}
