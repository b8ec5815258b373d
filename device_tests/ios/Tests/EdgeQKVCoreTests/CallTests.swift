import XCTest

#if canImport(EdgeQKVCore)
@testable import EdgeQKVCore
#endif

final class CallTests: XCTestCase {
    func testEveryTargetsGraphsAreCalledAsPythonCallsThem() throws {
        for each in Golden.cases.feeds {
            let runner = FakeRunner()
            let session = session(runner, each.artifact)
            for ids in each.feeds {
                let logits = try session.feed(ids)
                XCTAssertEqual(logits, fakeLogits(ids.last!, session.position - 1), each.artifact)
            }
            XCTAssertEqual(runner.calls.map(\.graph.name), each.calls.map(\.graph), each.artifact)
            for (made, wanted) in zip(runner.calls, each.calls) {
                let inputs = try made.inputs()
                for input in inputs {
                    let expected = try XCTUnwrap(wanted.inputs[input.spec.name])
                    XCTAssertEqual(input.shape, expected.shape, "\(each.artifact), \(input.spec.name)")
                    XCTAssertEqual(input.values, expected.values, "\(each.artifact), \(input.spec.name)")
                }
                let ofState = made.graph.inputs.filter { $0.role == .state }.map(\.name)
                XCTAssertTrue(Set(wanted.inputs.keys).subtracting(ofState).isSubset(of: inputs.map(\.spec.name)))
            }
        }
    }

    func testWhatCannotBeCalledIsSaid() throws {
        var package = artifact("coreml")
        package.graphs.removeAll { $0.tokens == 1 }
        assertThrows("no graph of this export takes a token at position 0") {
            _ = try Session(FakeRunner(), package).feed([1])
        }
        var graph = artifact("coreml count").graphs[0]
        graph.inputs[0].role = .pixels
        assertThrows("of the role pixels") { _ = try Call(graph: graph, ids: [1], position: 0).inputs() }
        graph.inputs[0].shape = [.named("breadth")]
        assertThrows("an unknown size, breadth") { _ = try Call(graph: graph, ids: [1], position: 0).inputs() }
    }

    func testGraphsOfFullWindowsAreClosed() throws {
        let runner = FakeRunner()
        let session = session(runner, "onnx static")
        _ = try session.feed(Array(repeating: 0, count: 11))
        _ = try session.feed([0])
        XCTAssertEqual(runner.closed, [])
        _ = try session.feed([0])
        XCTAssertEqual(runner.closed, ["prefill_12", "decode_12"])
    }
}
