// The same as in edgeqkv/run/session.py: which graph is called, and what its inputs are filled with, by their roles.

/// An input that is filled: its numbers in the order of memory, which a runtime turns into the input's own type.
public struct Input: Sendable {
    public let spec: TensorSpec
    public let shape: [Int]
    public let values: [Double]
}

/// One call of a graph, with tokens `ids`, which stand at `position` and after it.
public struct Call: Sendable {
    public let graph: Graph
    public let ids: [Int]
    public let position: Int

    /// Tokens that the graph takes; of a fixed one, those behind the last of `ids` only fill it up.
    public var tokens: Int { graph.fixed ? graph.tokens : ids.count }

    /// Positions that are filled after the call.
    public var end: Int { position + ids.count }

    /// Every input but the state.
    public func inputs() throws -> [Input] {
        try graph.inputs.filter { $0.role != .state }.map {
            let shape = try shape(of: $0)
            return Input(spec: $0, shape: shape, values: try values($0, shape))
        }
    }

    /// The shape that an input or output has in this call.
    public func shape(of spec: TensorSpec) throws -> [Int] {
        let sizes = ["tokens": tokens, "end": end, "end + 1": end + 1]
        return try spec.shape.map {
            switch $0 {
            case .fixed(let size): return size
            case .named(let name):
                guard let size = sizes[name] else {
                    throw EdgeQKVError("'\(spec.name)' is of an unknown size, \(name)")
                }
                return size
            }
        }
    }

    private func values(_ spec: TensorSpec, _ shape: [Int]) throws -> [Double] {
        let size = shape.reduce(1, *)
        func made(_ value: (Int) -> Int) -> [Double] { (0..<size).map { Double(value($0)) } }
        switch spec.role {
        case .tokens: return made { $0 < ids.count ? ids[$0] : 0 }
        case .positions: return made { position + $0 }
        case .start: return made { _ in position }
        case .logitIndex: return made { _ in ids.count - 1 }
        case .length:
            if case .named = spec.shape.last { return made { _ in 0 } }  // its size says it
            return made { _ in end }
        case .mask:
            guard let lowest = Self.lowest[spec.dtype], let columns = shape.last else { return made { _ in 1 } }
            return (0..<size).map { $0 % columns <= position + $0 / columns ? 0 : lowest }
        default:
            throw EdgeQKVError("the input '\(spec.name)' is of the role \(spec.role), which is no decoder's")
        }
    }

    /// What added to a score hides it; masks of integers say only which positions are filled.
    private static let lowest: [Dtype: Double] = [.fp32: -Double(Float.greatestFiniteMagnitude), .fp16: -65504]
}

extension Artifact {
    /// The graph for `count` tokens at `position`: of those that take so many there, the smallest with the smallest
    /// window. Nil: there is none, and they go one by one.
    ///
    /// A fixed graph that says which token's logits it gives is filled up. What fills it up stands after the last
    /// token: nothing attends to it there, and the tokens that come to stand there overwrite it.
    public func graph(for count: Int, at position: Int) -> Graph? {
        smallest(of: graphs(for: count, at: position).filter {
            !$0.fixed || $0.tokens == count || $0.has(.logitIndex)
        })
    }

    /// The graph that takes `count` tokens, filled up, whatever logits it gives. Nil: not worth its call.
    ///
    /// Up to 16 tokens of it for each that is wanted: reading the weights once is most of what any call takes.
    public func graphForAllButLogits(_ count: Int, at position: Int) -> Graph? {
        smallest(of: graphs(for: count, at: position).filter { $0.tokens <= count * 16 })
    }

    private func graphs(for count: Int, at position: Int) -> [Graph] {
        graphs.filter {
            $0.tokens >= count && (!$0.fixed || position + $0.tokens <= ($0.window ?? context))
        }
    }

    private func smallest(of graphs: [Graph]) -> Graph? {
        graphs.min { ($0.tokens, $0.window ?? 0) < ($1.tokens, $1.window ?? 0) }
    }
}
