import Foundation

/// Text to token ids and back, from a Hugging Face `tokenizer.json` with byte-level BPE (GPT-2's kind).
///
/// What else such a file may ask for is refused by name; take a whole library for it.
public struct Tokenizer: @unchecked Sendable {  // NSRegularExpression is immutable
    private let ids: [String: Int]
    private let tokens: [Int: String]
    private let ranks: [Pair: Int]
    private let special: Set<Int>
    private let added: NSRegularExpression?

    public init(file: URL) throws {
        let content = try JSONDecoder().decode(TokenizerFile.self, from: Data(contentsOf: file))
        if let wrong = content.unsupported {
            throw EdgeQKVError("\(file.lastPathComponent) asks for \(wrong), which this small reader cannot do")
        }
        let adds = content.addedTokens ?? []
        ids = content.model.vocab.merging(adds.map { ($0.content, $0.id) }) { _, added in added }
        tokens = Dictionary(uniqueKeysWithValues: ids.map { ($1, $0) })
        ranks = Dictionary(uniqueKeysWithValues: content.model.merges.enumerated().map { ($1, $0) })
        special = Set(adds.filter { $0.special == true }.map(\.id))
        let names = adds.map(\.content).sorted { $0.count > $1.count }.map(NSRegularExpression.escapedPattern)
        added = names.isEmpty ? nil : try NSRegularExpression(pattern: names.joined(separator: "|"))
    }

    /// Token ids of a text, with nothing added to it.
    public func encode(_ text: String) -> [Int] {
        var found: [Int] = []
        var rest = text.startIndex..<text.endIndex
        for match in added?.matches(in: text, range: NSRange(rest, in: text)) ?? [] {
            let range = Range(match.range, in: text)!
            found += encodePlain(String(text[rest.lowerBound..<range.lowerBound]))
            found.append(ids[String(text[range])]!)
            rest = range.upperBound..<text.endIndex
        }
        return found + encodePlain(String(text[rest]))
    }

    /// The text of token ids, without special tokens.
    public func decode(_ ids: [Int]) -> String {
        var stream = stream()
        return ids.map { stream.add($0) }.joined() + stream.end()
    }

    /// Text piece by piece, never splitting a character that spans several tokens.
    public func stream() -> Stream {
        Stream(tokenizer: self)
    }

    /// See `Tokenizer.stream`.
    public struct Stream {
        private let tokenizer: Tokenizer
        private var pending: [UInt8] = []

        fileprivate init(tokenizer: Tokenizer) {
            self.tokenizer = tokenizer
        }

        /// The text that a token completes; empty while a character is not whole.
        public mutating func add(_ id: Int) -> String {
            guard !tokenizer.special.contains(id) else { return "" }
            pending += tokenizer.tokens[id]!.unicodeScalars.map { Tokenizer.bytes[$0]! }
            let whole = pending.count - Tokenizer.unfinished(pending)
            defer { pending.removeFirst(whole) }
            return String(decoding: pending.prefix(whole), as: UTF8.self)
        }

        /// What is left, should the text end inside a character.
        public mutating func end() -> String {
            defer { pending = [] }
            return String(decoding: pending, as: UTF8.self)
        }
    }

    private func encodePlain(_ text: String) -> [Int] {
        let range = NSRange(text.startIndex..<text.endIndex, in: text)
        return Self.words.matches(in: text, range: range).flatMap { match in
            let word = text[Range(match.range, in: text)!]
            return merged(word.utf8.map { String(Self.letters[Int($0)]) }).map { ids[$0]! }
        }
    }

    /// Join the neighbours that were joined first in training, until no pair is left that was.
    private func merged(_ letters: [String]) -> [String] {
        var parts = letters
        while let best = zip(parts, parts.dropFirst()).map(Pair.init).filter({ ranks[$0] != nil })
            .min(by: { ranks[$0]! < ranks[$1]! })
        {
            var joined: [String] = []
            for part in parts {
                // Not `joined.last`: a pair that was just made is not joined again with what follows.
                if part == best.second, let last = joined.last, last == best.first, !closed.contains(joined.count) {
                    joined[joined.count - 1] = last + part
                } else {
                    joined.append(part)
                }
            }
            parts = joined
        }
        return parts
    }
}
