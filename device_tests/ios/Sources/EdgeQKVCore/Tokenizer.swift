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
            return merged(word.utf8.map { String(Character(Self.letters[Int($0)])) }).map { ids[$0]! }
        }
    }

    /// Join the neighbours that were joined first in training, until no pair is left that was.
    private func merged(_ letters: [String]) -> [String] {
        var parts = letters
        while true {
            let pairs = zip(parts, parts.dropFirst())
            let known = pairs.compactMap { pair in ranks[Pair(pair.0, pair.1)].map { ($0, pair) } }
            guard let (_, best) = known.min(by: { $0.0 < $1.0 }) else { return parts }
            var joined: [String] = []
            var index = 0
            while index < parts.count {
                let matches = index + 1 < parts.count && parts[index] == best.0 && parts[index + 1] == best.1
                joined.append(matches ? best.0 + best.1 : parts[index])
                index += matches ? 2 : 1
            }
            parts = joined
        }
    }

    /// Unicode's white space, spelled out because `\s` means different things to regular expressions.
    private static let space = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"

    /// GPT-2's pattern: contractions, words, numbers, other signs, white space.
    private static let words = try! NSRegularExpression(
        pattern: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\(space)\\p{L}\\p{N}]+"
            + "|[\(space)]+(?![^\(space)])|[\(space)]+"
    )

    /// The letter that stands for each byte: itself where it is printable, else one from U+0100 on.
    private static let letters: [Unicode.Scalar] = {
        let printable = Set(0x21...0x7e).union(0xa1...0xac).union(0xae...0xff)
        var next = 0x100
        return (0...255).map { byte in
            defer { next += printable.contains(byte) ? 0 : 1 }
            return Unicode.Scalar(printable.contains(byte) ? byte : next)!
        }
    }()
    private static let bytes = Dictionary(uniqueKeysWithValues: letters.enumerated().map { ($1, UInt8($0)) })

    /// How many bytes at the end are the beginning of a character.
    private static func unfinished(_ bytes: [UInt8]) -> Int {
        for (back, byte) in bytes.reversed().prefix(3).enumerated() where byte & 0xc0 != 0x80 {
            let length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1
            return length > back + 1 ? back + 1 : 0
        }
        return 0
    }
}

private struct Pair: Hashable {
    let first: String
    let second: String

    init(_ first: String, _ second: String) {
        (self.first, self.second) = (first, second)
    }
}

/// The parts of a `tokenizer.json` that matter here.
private struct TokenizerFile: Decodable {
    struct AddedToken: Decodable {
        let id: Int
        let content: String
        let special: Bool?
        let single_word: Bool?
        let lstrip: Bool?
        let rstrip: Bool?
        let normalized: Bool?
    }

    struct Step: Decodable {
        let type: String
        let add_prefix_space: Bool?
        let use_regex: Bool?
    }

    struct Model: Decodable {
        let type: String?
        let vocab: [String: Int]
        let merges: [Pair]
        let byte_fallback: Bool?
        let ignore_merges: Bool?
        let continuing_subword_prefix: String?
        let end_of_word_suffix: String?
    }

    let addedTokens: [AddedToken]?
    let normalizer: Step?
    let preTokenizer: Step?
    let model: Model

    enum CodingKeys: String, CodingKey {
        case normalizer, model
        case addedTokens = "added_tokens"
        case preTokenizer = "pre_tokenizer"
    }

    /// What it asks for that `Tokenizer` cannot do.
    var unsupported: String? {
        let affixes = [model.continuing_subword_prefix, model.end_of_word_suffix]
        let wrong: [(Bool, String)] = [
            (model.type != "BPE", "a model of another type than BPE"),
            (normalizer != nil, "a normalizer"),
            (preTokenizer?.type != "ByteLevel", "another pre_tokenizer than ByteLevel"),
            (preTokenizer?.add_prefix_space == true, "add_prefix_space"),
            (preTokenizer?.use_regex == false, "a ByteLevel without its pattern"),
            (model.byte_fallback == true, "byte_fallback"),
            (model.ignore_merges == true, "ignore_merges"),
            (affixes.contains { $0?.isEmpty == false }, "affixes of words"),
            (
                (addedTokens ?? []).contains { [$0.single_word, $0.lstrip, $0.rstrip, $0.normalized].contains(true) },
                "added tokens that take in their surroundings"
            ),
        ]
        let names = wrong.filter(\.0).map(\.1)
        return names.isEmpty ? nil : names.joined(separator: ", ")
    }
}

extension Pair: Decodable {
    /// From `["a", "b"]`, or from `"a b"` as older files have it.
    init(from decoder: any Decoder) throws {
        if var list = try? decoder.unkeyedContainer() {
            self.init(try list.decode(String.self), try list.decode(String.self))
        } else {
            let parts = try decoder.singleValueContainer().decode(String.self).split(separator: " ", maxSplits: 1)
            self.init(String(parts[0]), String(parts[1]))
        }
    }
}
