import Foundation
import XCTest

#if canImport(EdgeQKVCore)
@testable import EdgeQKVCore
#endif

/// The cases that edgeqkv computed: device_tests/golden.json.
struct Golden: Decodable {
    struct Text: Decodable {
        let text: String
        let ids: [Int]
        let decoded: String
        let pieces: [String]
    }

    struct Pick: Decodable {
        let logits: [Float]
        let temperature: Double
        let top_k: Int
        let top_p: Double
        let uniform: Double
        let token: Int
    }

    struct Model: Decodable {
        let vocabulary: Int
        let context: Int
        let chunk: Int
    }

    struct Generation: Decodable {
        let prompt: [Int]
        let max_tokens: Int?
        let eos_ids: [Int]
        let tokens: [Int]
        let stopped: String
        let calls: [[Int]]
    }

    struct Plan: Decodable {
        let tokens: Int
        let chunk: Int
        let any: [Int]
        let fixed: [Int]
    }

    struct Bundle: Decodable {
        let files: [String: String]
        let manifest: String
        let sha256: String
    }

    let tokenizer: [Text]
    let sampling: [Pick]
    let model: Model
    let generation: [Generation]
    let plans: [Plan]
    let bundle: Bundle

    /// device_tests/, or what the variable of that name says.
    static let folder = ProcessInfo.processInfo.environment["DEVICE_TESTS"].map { URL(filePath: $0) }
        ?? URL(filePath: #filePath).appending(path: "../../../..").standardized

    static let cases = try! JSONDecoder().decode(
        Golden.self,
        from: Data(contentsOf: folder.appending(path: "golden.json"))
    )

    /// The built-in model's.
    static let tokenizer = folder.appending(path: "../edgeqkv/demo/tokenizer.json")

    /// A new folder with the bundle in it, its manifest changed.
    static func bundle(_ change: (String) -> String = { $0 }) throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        for (name, text) in cases.bundle.files {
            try Data(text.utf8).write(to: folder.appending(path: name))
        }
        try Data(change(cases.bundle.manifest).utf8).write(to: folder.appending(path: "manifest.json"))
        return folder
    }
}

/// `fake_logits` of device_tests/golden.py, and the calls that were made: tokens, position.
final class FakeModel: LanguageModel {
    var calls: [[Int]] = []

    func step(_ ids: [Int], at position: Int) -> [Float] {
        calls.append([ids.count, position])
        let last = position + ids.count - 1
        return (0..<Golden.cases.model.vocabulary).map { Float((ids.last! * 7 + $0 * (13 + last) + last * 3) % 23) }
    }
}

func session(_ model: any LanguageModel, chunk: Int? = nil, fixed: Bool = false) -> Session {
    let sizes = Golden.cases.model
    return Session(
        model,
        context: sizes.context,
        chunk: chunk ?? sizes.chunk,
        vocabulary: sizes.vocabulary,
        fixed: fixed
    )
}

func assertThrows(_ part: String, line: UInt = #line, _ block: () throws -> Void) {
    XCTAssertThrowsError(try block(), line: line) { error in
        let message = (error as? EdgeQKVError)?.message ?? "\(error)"
        XCTAssertTrue(message.contains(part), "'\(message)' does not contain '\(part)'", line: line)
    }
}
