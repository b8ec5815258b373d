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
        let eos_token_ids: [Int]
        let tokens: [Int]
        let stopped: String
        let calls: [[Int]]
    }

    struct Feeds: Decodable {
        struct Call: Decodable {
            struct Input: Decodable {
                let shape: [Int]
                let values: [Double]
            }

            let graph: String
            let inputs: [String: Input]
        }

        let artifact: String
        let feeds: [[Int]]
        let calls: [Call]
    }

    struct Chat: Decodable {
        let card: ChatCard
        let messages: [Message]
        let text: String
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
    /// Exports of every target, by name.
    let artifacts: [String: Artifact]
    let feeds: [Feeds]
    let chat: [Chat]
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

/// `fake_logits` of device_tests/golden.py.
func fakeLogits(_ token: Int, _ position: Int) -> [Float] {
    (0..<Golden.cases.model.vocabulary).map { Float((token * 7 + $0 * (13 + position) + position * 3) % 23) }
}

/// That model as what runs an artifact, and the calls that were made.
final class FakeRunner: Runner {
    var calls: [Call] = []
    var closed: Set<String> = []

    /// Tokens, position.
    var places: [[Int]] { calls.map { [$0.ids.count, $0.position] } }

    func run(_ call: Call) -> [Float] {
        calls.append(call)
        let every = call.graph.outputs[0].shape.contains(.named("tokens"))
        let rows = every ? Array(call.ids.indices) : [call.ids.count - 1]
        return rows.flatMap { fakeLogits(call.ids[$0], call.position + $0) }
    }

    func close(_ graph: Graph) {
        closed.insert(graph.name)
    }
}

func artifact(_ name: String) -> Artifact {
    Golden.cases.artifacts[name]!
}

func session(_ runner: any Runner, _ name: String = "onnx") -> Session {
    Session(runner, artifact(name))
}

func assertThrows(_ part: String, line: UInt = #line, _ block: () throws -> Void) {
    XCTAssertThrowsError(try block(), line: line) { error in
        let message = (error as? EdgeQKVError)?.message ?? "\(error)"
        XCTAssertTrue(message.contains(part), "'\(message)' does not contain '\(part)'", line: line)
    }
}
