import Foundation
import XCTest

#if canImport(EdgeQKVCore)
@testable import EdgeQKVCore
#endif

/// Its last token is always the most likely next one; its memory is what its phase says.
private final class Echo: Runner {
    let memory: Memory

    init(_ memory: Memory) {
        self.memory = memory
        memory.bytes = 300
    }

    func run(_ call: Call) -> [Float] {
        memory.bytes = call.ids.count > 1 ? 900 : 500
        var logits = [Float](repeating: 0, count: 1024)
        logits[call.ids.last!] = 1
        return logits
    }
}

private final class Memory: @unchecked Sendable {
    private let lock = NSLock()
    private var value = 100
    var bytes: Int {
        get { lock.withLock { value } }
        set { lock.withLock { value = newValue } }
    }
}

final class MeasurementTests: XCTestCase {
    func measured() throws -> DeviceRun {
        let memory = Memory()
        let tokenizer = try Tokenizer(file: Golden.tokenizer)
        var artifact = artifact("onnx")
        (artifact.context, artifact.chunk, artifact.vocabulary) = (512, 128, 1024)
        artifact.graphs[0].tokens = 128
        return try DeviceRun.measure(context: 512, tokenizer: tokenizer, probe: { memory.bytes }) {
            Session(Echo(memory), artifact)
        }
    }

    func testARunFillsTheContextAndIsWatchedByPhase() throws {
        let measured = try measured()
        XCTAssertEqual(measured.outcome.prefill.tokens, 448)
        XCTAssertEqual(measured.outcome.decode.tokens, 64)
        XCTAssertEqual(measured.memoryBefore, 100)
        XCTAssertEqual(measured.memoryPeaks["load"], 300)
        XCTAssertEqual(measured.memoryPeaks["prefill"], 900)
        XCTAssertGreaterThanOrEqual(try XCTUnwrap(measured.memoryPeaks["decode"]), 500)
    }

    /// Python reads the file that is written here, where the variable `DEVICE_REPORT` names one.
    func testTheReportIsWritten() throws {
        let report = DeviceReport(
            of: try measured(),
            target: "coreml",
            manifestSHA256: Golden.cases.bundle.sha256,
            app: Software(name: "edgeqkv-ios", version: "0.1.0"),
            device: Device(name: "iPhone16,2", ramBytes: 7_900_000_000),
            system: Software(name: "iOS", version: "18.5"),
            runtime: Software(name: "coreml", version: "iOS 18.5", settings: "CPU and GPU"),
            memoryFigure: "phys_footprint",
            limitBytes: 3_300_000_000,
            thermal: Thermal(before: "nominal", after: "fair")
        )
        let json = try report.json()
        let told = try XCTUnwrap(JSONSerialization.jsonObject(with: json) as? [String: Any])
        XCTAssertEqual((told["memory"] as? [String: Any])?["limit_bytes"] as? Int, 3_300_000_000)
        if let path = ProcessInfo.processInfo.environment["DEVICE_REPORT"] {
            try json.write(to: URL(filePath: path))
        }
    }
}
