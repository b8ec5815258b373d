import Foundation

/// How the next token is drawn.
public struct Sampling: Sendable {
    /// 0 takes the most likely token; 1 draws from the model's own distribution.
    public let temperature: Double
    /// Draw among this many of the most likely tokens; 0: among all.
    public let topK: Int
    /// Draw among the most likely tokens that together have this probability; 1: among all.
    public let topP: Double

    public static let greedy = Sampling()

    private init() {
        (temperature, topK, topP) = (0, 0, 1)
    }

    public init(temperature: Double, topK: Int = 0, topP: Double = 1) throws {
        guard temperature >= 0 else {
            throw EdgeQKVError("temperature \(temperature) is impossible; it is 0 (greedy) or more")
        }
        guard topK >= 0 else { throw EdgeQKVError("top-k \(topK) is impossible; it is 0 (off) or more") }
        guard topP > 0, topP <= 1 else { throw EdgeQKVError("top-p \(topP) is impossible; it is above 0, at most 1") }
        (self.temperature, self.topK, self.topP) = (temperature, topK, topP)
    }

    /// The token that `uniform`, a random number of [0, 1), picks from the logits.
    public func pick(_ logits: [Float], uniform: Double) -> Int {
        // Of equal logits the first: `sort` keeps no order of its own.
        func isBefore(_ a: Int, _ b: Int) -> Bool { logits[a] != logits[b] ? logits[a] > logits[b] : a < b }
        guard temperature > 0 else { return logits.indices.min(by: isBefore)! }
        var order = logits.indices.sorted(by: isBefore)
        if topK > 0 { order = Array(order.prefix(topK)) }
        let largest = Double(logits[order[0]])
        let weights = order.map { exp((Double(logits[$0]) - largest) / temperature) }
        // The most likely tokens up to and including the one that reaches topP.
        let reach = topP * weights.reduce(0, +)
        var total = 0.0
        let kept = weights.prefix { weight in
            defer { total += weight }
            return total < reach
        }
        let drawn = uniform * kept.reduce(0, +)
        var reached = 0.0
        let index = kept.firstIndex { weight in
            reached += weight
            return drawn < reached
        }
        return order[index ?? kept.count - 1]
    }
}
