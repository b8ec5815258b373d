import Foundation

/// An app, a system or a runtime; `settings` says what is not the default.
public struct Software: Encodable, Sendable {
    let name: String
    let version: String
    let settings: String

    public init(name: String, version: String, settings: String = "") {
        (self.name, self.version, self.settings) = (name, version, settings)
    }
}

/// The device, as far as the system tells.
public struct Device: Encodable, Sendable {
    let name: String
    let ramBytes: Int

    public init(name: String, ramBytes: Int) {
        (self.name, self.ramBytes) = (name, ramBytes)
    }

    enum CodingKeys: String, CodingKey {
        case name
        case ramBytes = "ram_bytes"
    }
}

/// How warm the device was, in the system's own words.
public struct Thermal: Encodable, Sendable {
    let before: String
    let after: String

    public init(before: String, after: String) {
        (self.before, self.after) = (before, after)
    }
}

/// `device-report.json`; its schema is `device_tests/device-report.schema.json`.
///
/// Core ML holds the state, so there is no `state_bytes`.
public struct DeviceReport: Encodable, Sendable {
    struct Memory: Encodable, Sendable {
        let figure: String
        let beforeBytes: Int
        let phases: [String: Int]
        let limitBytes: Int?

        enum CodingKeys: String, CodingKey {
            case figure, phases
            case beforeBytes = "before_bytes"
            case limitBytes = "limit_bytes"
        }
    }

    let format = 1
    let date: String
    let app: Software
    let device: Device
    let system: Software
    let runtime: Software
    let manifestSHA256: String
    let target: String
    let loadSeconds: Double
    let prefill: Run
    let decode: Run
    let memory: Memory
    let thermal: Thermal

    enum CodingKeys: String, CodingKey {
        case format, date, app, device, system, runtime, target, prefill, decode, memory, thermal
        case manifestSHA256 = "manifest_sha256"
        case loadSeconds = "load_seconds"
    }

    /// - Parameter limitBytes: what the system says that the process may take in all; nil where it does not.
    public init(
        of run: DeviceRun,
        target: String,
        manifestSHA256: String,
        app: Software,
        device: Device,
        system: Software,
        runtime: Software,
        memoryFigure: String,
        limitBytes: Int?,
        thermal: Thermal,
        date: Date = .now
    ) {
        self.date = date.formatted(.iso8601)
        (self.app, self.device, self.system, self.runtime) = (app, device, system, runtime)
        (self.manifestSHA256, self.target, self.thermal) = (manifestSHA256, target, thermal)
        loadSeconds = run.loadSeconds
        prefill = run.outcome.prefill
        decode = run.outcome.decode
        memory = Memory(
            figure: memoryFigure,
            beforeBytes: run.memoryBefore,
            phases: run.memoryPeaks,
            limitBytes: limitBytes
        )
    }

    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        return try encoder.encode(self)
    }
}
