/// What runs a model: one call's tokens in, the logits after the last of them out. It keeps the KV state.
public protocol LanguageModel: AnyObject {
    /// Run `ids`, which stand at `position` and after it; the logits of the last one, one a token of the vocabulary.
    func step(_ ids: [Int], at position: Int) throws -> [Float]
}

/// The sizes of the calls that feed so many tokens.
///
/// A graph that takes any number gets chunks and what is left. A `fixed` one takes exactly a chunk, so that what is
/// left goes token by token, to the graph that takes one.
public func plan(tokens: Int, chunk: Int, fixed: Bool) -> [Int] {
    let (full, rest) = tokens.quotientAndRemainder(dividingBy: chunk)
    return Array(repeating: chunk, count: full) + (fixed ? Array(repeating: 1, count: rest) : rest > 0 ? [rest] : [])
}

/// A model with its place in the context: checks what is fed, and feeds it in chunks.
public final class Session {
    public let context: Int
    /// Tokens fed since the start or the last `reset`.
    public private(set) var position = 0

    private let model: any LanguageModel
    private let chunk: Int
    private let vocabulary: Int
    private let fixed: Bool

    public init(_ model: any LanguageModel, context: Int, chunk: Int, vocabulary: Int, fixed: Bool) {
        self.model = model
        self.context = context
        self.chunk = chunk
        self.vocabulary = vocabulary
        self.fixed = fixed
    }

    public convenience init(_ model: any LanguageModel, _ artifact: Artifact) {
        self.init(
            model,
            context: artifact.context,
            chunk: artifact.chunk,
            vocabulary: artifact.vocabulary,
            fixed: artifact.graphs.contains(where: \.fixed)
        )
    }

    /// Append tokens; the logits after the last one.
    public func feed(_ ids: [Int]) throws -> [Float] {
        guard !ids.isEmpty else { throw EdgeQKVError("there is nothing to feed; give one or more tokens") }
        if let wrong = ids.first(where: { !(0..<vocabulary).contains($0) }) {
            throw EdgeQKVError("token \(wrong) is not in this model's vocabulary, 0 to \(vocabulary - 1)")
        }
        guard position + ids.count <= context else {
            throw EdgeQKVError("\(ids.count) more tokens do not fit: \(position) of \(context) positions are taken")
        }
        var logits: [Float] = []
        var start = 0
        for size in plan(tokens: ids.count, chunk: chunk, fixed: fixed) {
            logits = try model.step(Array(ids[start..<start + size]), at: position)
            start += size
            position += size
        }
        return logits
    }

    /// Forget everything that was fed. Rows of the state are overwritten before they are read again.
    public func reset() {
        position = 0
    }
}
