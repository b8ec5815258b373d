/// What calls an export's graphs. It keeps the KV state, or its runtime does.
public protocol Runner: AnyObject {
    /// The logits of a call: of the token that the graph was asked for, or of every token, one after another.
    func run(_ call: Call) throws -> [Float]

    /// Give back what a graph takes; it is opened anew if it is called again.
    func close(_ graph: Graph)
}

extension Runner {
    public func close(_ graph: Graph) {}
}

/// A model with its place in the context: checks what is fed, and feeds it in chunks to the graphs that take them.
public final class Session {
    public var context: Int { artifact.context }
    /// Tokens fed since the start or the last `reset`.
    public private(set) var position = 0

    private let runner: any Runner
    private let artifact: Artifact

    public init(_ runner: any Runner, _ artifact: Artifact) {
        self.runner = runner
        self.artifact = artifact
    }

    /// Append tokens; the logits after the last one.
    public func feed(_ ids: [Int]) throws -> [Float] {
        guard !ids.isEmpty else { throw EdgeQKVError("there is nothing to feed; give one or more tokens") }
        if let wrong = ids.first(where: { !(0..<artifact.vocabulary).contains($0) }) {
            throw EdgeQKVError("token \(wrong) is not in this model's vocabulary, 0 to \(artifact.vocabulary - 1)")
        }
        guard position + ids.count <= context else {
            throw EdgeQKVError("\(ids.count) more tokens do not fit: \(position) of \(context) positions are taken")
        }
        var logits: [Float] = []
        for start in stride(from: 0, to: ids.count, by: artifact.chunk) {
            logits = try step(Array(ids[start..<min(start + artifact.chunk, ids.count)]))
        }
        return logits
    }

    /// Forget everything that was fed. Rows of the state are overwritten before they are read again.
    public func reset() {
        position = 0
    }

    private func step(_ ids: [Int]) throws -> [Float] {
        // Graphs of windows that are full cannot be called again before a reset, and may hold weights of their own.
        for graph in artifact.graphs where graph.window.map({ $0 <= position }) ?? false {
            runner.close(graph)
        }
        guard let graph = artifact.graph(for: ids.count, at: position) else {
            guard ids.count > 1 else {
                throw EdgeQKVError("no graph of this export takes a token at position \(position). Export it again")
            }
            if let graph = artifact.graphForAllButLogits(ids.count - 1, at: position) {
                _ = try runner.run(Call(graph: graph, ids: Array(ids.dropLast()), position: position))
                position += ids.count - 1
                return try step(Array(ids.suffix(1)))
            }
            return try ids.map { try step([$0]) }.last!
        }
        let logits = try runner.run(Call(graph: graph, ids: ids, position: position))
        position += ids.count
        if logits.count == artifact.vocabulary { return logits }
        return Array(logits[(ids.count - 1) * artifact.vocabulary..<ids.count * artifact.vocabulary])
    }
}
