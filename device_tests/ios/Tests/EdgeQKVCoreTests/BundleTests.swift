import Foundation
import XCTest

#if canImport(EdgeQKVCore)
@testable import EdgeQKVCore
#endif

final class BundleTests: XCTestCase {
    /// The right SHA-256 for what the golden bundle holds, and a wrong one for everything else.
    @Sendable static func hash(_ file: URL) throws -> String {
        let known = [
            Golden.cases.bundle.manifest: Golden.cases.bundle.sha256,
            "the model": "model", "{}": "tokenizer",
        ]
        return known[try String(contentsOf: file, encoding: .utf8)] ?? "unknown"
    }

    /// With the checksums of the golden bundle's manifest replaced by those of `hash`.
    func bundle(_ change: (String) -> String = { $0 }) throws -> ModelBundle {
        try ModelBundle(folder: Golden.bundle(change), hash: Self.hash)
    }

    func testABundleIsRead() throws {
        let bundle = try bundle()
        let artifact = try bundle.target("coreml")
        XCTAssertEqual(bundle.sha256, Golden.cases.bundle.sha256)
        XCTAssertEqual(bundle.variant, "q-k=v+gqa2")
        XCTAssertEqual(bundle.eosTokenIDs, [0, 3])
        XCTAssertEqual(artifact.graphs.filter(\.fixed).map(\.name), ["prefill", "decode"])
        XCTAssertEqual(artifact.stateBytes, 2 * Golden.cases.model.context * 4 * 2)
        XCTAssertEqual(artifact.stateTensors.map(\.update), [.runtime])
        let ids = TensorSpec(name: "input_ids", dtype: .int32, shape: [.fixed(1), .fixed(5)], role: .tokens)
        XCTAssertEqual(artifact.graphs[0].inputs[0], ids)
        XCTAssertEqual(artifact.graphs[0].window, Golden.cases.model.context)
        XCTAssertFalse(try bundle.target("onnx").graphs.contains(where: \.fixed))
        XCTAssertNil(try bundle.budget("onnx"))
        assertThrows("holds [\"coreml\", \"onnx\"], not 'executorch'") { _ = try bundle.target("executorch") }
    }

    func testAnotherFormatIsNamed() {
        for (format, help) in [(1, "Export the model again"), (3, "Update this app")] {
            assertThrows("of format \(format), and this app reads format 2. \(help)") {
                _ = try bundle { $0.replacingOccurrences(of: "\"format\": 2", with: "\"format\": \(format)") }
            }
        }
    }

    func testAnEncoderIsNotOpened() {
        assertThrows("holds an encoder, which continues no text") {
            _ = try bundle {
                $0.replacingOccurrences(of: "\"kind\": \"decoder\"", with: "\"kind\": \"encoder\"")
            }
        }
    }

    func testWhatIsMissingIsNamed() {
        assertThrows("vocab_size") {
            _ = try bundle { $0.replacingOccurrences(of: "\"vocab_size\"", with: "\"vocabulary\"") }
        }
        assertThrows("no manifest.json") {
            _ = try ModelBundle(folder: URL(filePath: "/nowhere"), hash: Self.hash)
        }
        assertThrows("of format unknown") { _ = try bundle { _ in "{" } }
    }

    func testAChangedFileIsFound() throws {
        // The manifest with `hash`'s names for checksums, so that no cryptography is needed here.
        let cards = try JSONSerialization.jsonObject(with: Data(Golden.cases.bundle.manifest.utf8)) as? [String: Any]
        let files = try XCTUnwrap(cards?["files"] as? [String: [String: Any]])
        var manifest = Golden.cases.bundle.manifest
        for (name, short) in [("model.bin", "model"), ("tokenizer.json", "tokenizer")] {
            manifest = manifest.replacingOccurrences(of: try XCTUnwrap(files[name]?["sha256"] as? String), with: short)
        }
        let bundle = try bundle { _ in manifest }
        try bundle.check()
        let model = bundle.folder.appending(path: "model.bin")
        try Data("the modem".utf8).write(to: model)
        assertThrows("'model.bin' is not the file that was exported") { try bundle.check() }
        try FileManager.default.removeItem(at: model)
        assertThrows("'model.bin' is missing") { try bundle.check() }
    }

    func testTheBudgetIsRead() throws {
        let bundle = try bundle()
        let report = #"{"candidates": [{"target": "onnx", "phases": {"load": 5, "prefill": 7, "decode": 6}}]}"#
        try Data(report.utf8).write(to: bundle.folder.appending(path: "report.json"))
        XCTAssertEqual(try bundle.budget("onnx")?["prefill"], 7)
        XCTAssertNil(try bundle.budget("coreml"))
    }
}
